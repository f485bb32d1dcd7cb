package engine

import (
	"errors"
	"fmt"
	"strings"
)

// splitWords cuts the arguments of an instruction at blanks, as a Dockerfile does:
// quotes keep blanks together, and a backslash what follows it. Quotes and
// backslashes stay in the words for [expand].
func splitWords(text string) []string {
	var words []string
	var word strings.Builder
	quote, inside := byte(0), false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote == 0 && (c == ' ' || c == '\t'):
			if inside {
				words = append(words, word.String())
				word.Reset()
			}
			inside = false
			continue
		case c == '\\' && quote != '\'' && i+1 < len(text):
			word.WriteByte(c)
			i++
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		}
		inside = true
		word.WriteByte(text[i])
	}
	if inside {
		words = append(words, word.String())
	}
	return words
}

// expand takes the quotes and backslashes out of a word, and puts the values of
// env (NAME=value) in the place of $NAME and ${NAME}, but for single quotes.
func expand(word string, env []string) (string, error) {
	var out strings.Builder
	quote := byte(0)
	for i := 0; i < len(word); i++ {
		switch c := word[i]; {
		case c == '\\' && quote != '\'' && i+1 < len(word):
			i++
			if quote == '"' && !strings.ContainsRune(`"$\`, rune(word[i])) {
				out.WriteByte(c)
			}
			out.WriteByte(word[i])
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case c == '$' && quote != '\'':
			name, n, err := variable(word[i:])
			if err != nil {
				return "", err
			}
			out.WriteString(lookup(env, name))
			i += n - 1
			if name == "" {
				out.WriteByte(c)
			}
		default:
			out.WriteByte(c)
		}
	}
	if quote != 0 {
		return "", fmt.Errorf("the quote %c is not closed", quote)
	}
	return out.String(), nil
}

// variable reads $NAME or ${NAME} at the beginning of text, and how long it is. A
// dollar sign that begins no name is itself.
func variable(text string) (name string, n int, err error) {
	isName := func(c byte) bool {
		return c == '_' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
	}
	if strings.HasPrefix(text, "${") {
		end := strings.IndexByte(text, '}')
		if end < 0 {
			return "", 0, errors.New("${ is not closed")
		}
		name = text[2:end]
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r > 127 || !isName(byte(r)) }) {
			return "", 0, fmt.Errorf("%s: only ${NAME} is understood here", text[:end+1])
		}
		return name, end + 1, nil
	}
	for n = 1; n < len(text) && isName(text[n]); n++ {
	}
	return text[1:n], n, nil
}

// lookup returns the value of a name in a list of NAME=value, "" if it has none.
func lookup(env []string, name string) string {
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value
		}
	}
	return ""
}
