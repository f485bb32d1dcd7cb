package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"
	"unicode/utf8"

	"github.com/docker/go-units"
)

// A list prints rows as docker does: as a table, by a Go template, or as JSON.
// T is a struct whose exported fields are strings; the tag "title" of one is its heading.
type list[T any] struct {
	table  string // the template of the table, as in "{{.ID}}\t{{.Size}}"
	format string // --format: "", "json", "table TEMPLATE" or TEMPLATE
}

// print writes the rows, with few calls of w: a table comes cell by cell.
func (l list[T]) print(w io.Writer, rows []T) error {
	out := bufio.NewWriterSize(w, 64<<10)
	return errors.Join(l.write(out, rows), out.Flush())
}

func (l list[T]) write(w io.Writer, rows []T) error {
	switch {
	case l.format == "json" || l.format == "{{json .}}":
		return printJSON(w, rows)
	case l.format == "" || l.format == "table":
		return l.printTable(w, l.table, rows)
	case strings.HasPrefix(l.format, "table "):
		return l.printTable(w, unescape(strings.TrimPrefix(l.format, "table ")), rows)
	}
	t, err := parseTemplate(unescape(l.format))
	if err != nil {
		return err
	}
	for _, row := range rows {
		if err := t.Execute(w, row); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	return nil
}

func (l list[T]) printTable(w io.Writer, text string, rows []T) error {
	t, err := parseTemplate(text)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	for _, row := range append([]T{titles[T]()}, rows...) {
		var line bytes.Buffer
		if err := t.Execute(&line, row); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		if _, err := fmt.Fprintln(table, line.String()); err != nil {
			return err
		}
	}
	return table.Flush()
}

// titles is a row that holds the headings.
func titles[T any]() T {
	var row T
	v := reflect.ValueOf(&row).Elem()
	for i := range v.NumField() {
		if !v.Type().Field(i).IsExported() {
			continue
		}
		v.Field(i).SetString(v.Type().Field(i).Tag.Get("title"))
	}
	return row
}

func printJSON[T any](w io.Writer, rows []T) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, row := range rows {
		if err := enc.Encode(row); err != nil {
			return err
		}
	}
	return nil
}

func parseTemplate(text string) (*template.Template, error) {
	t, err := template.New("").Funcs(template.FuncMap{
		"json":  plainJSON,
		"lower": strings.ToLower, "upper": strings.ToUpper, "join": strings.Join, "split": strings.Split,
	}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("--format: %w", err)
	}
	return t, nil
}

// plainJSON is v on one line, with <, > and & as they are, as docker writes them.
func plainJSON(v any) (string, error) {
	var b strings.Builder
	err := printJSON(&b, []any{v})
	return strings.TrimSuffix(b.String(), "\n"), err
}

// unescape reads \t and \n, which a shell passes on as they are.
func unescape(s string) string { return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(s) }

// shortID is an ID as tables show it.
func shortID(id string, noTrunc bool) string {
	if noTrunc || len(id) < 12 {
		return id
	}
	return id[:12]
}

// imageID is shortID for images, which carry their algorithm in full.
func imageID(id string, noTrunc bool) string {
	if noTrunc {
		return "sha256:" + id
	}
	return shortID(id, false)
}

// ellipsis cuts s to so many runes, the last of which says that it was cut.
func ellipsis(s string, runes int) string {
	if utf8.RuneCountInString(s) <= runes {
		return s
	}
	return string([]rune(s)[:runes-1]) + "…"
}

// ago is a time as docker tells it, "N/A" if it never was.
func ago(t time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}

// stamp is a time in full.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return t.Local().Format("2006-01-02 15:04:05 -0700 MST")
}

// size is a number of bytes as docker tells it.
func size(bytes int64) string { return units.HumanSizeWithPrecision(float64(bytes), 3) }
