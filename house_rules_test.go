package varve_test

import (
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// file is one parsed Go file and where it lives.
type file struct {
	path, room string
	test       bool
	tree       *ast.File
}

// violations lists what breaks the rules of imports and of calls, sorted.
func violations(files []file) []string {
	var list []string
	for _, f := range files {
		if _, known := rooms[f.room]; !known {
			list = append(list, fmt.Sprintf("%s: %s is not on the map", f.path, f.room))
			continue
		}
		for _, path := range f.imports() {
			if !f.mayImport(path) {
				list = append(list, fmt.Sprintf("%s: %s must not import %s", f.path, f.room, strings.TrimPrefix(path, module+"/")))
			}
		}
		if !f.test {
			list = append(list, f.wrongCalls()...)
		}
	}
	slices.Sort(list)
	return list
}

// imports lists what the file imports.
func (f file) imports() []string {
	var list []string
	for _, spec := range f.tree.Imports {
		if path, err := strconv.Unquote(spec.Path.Value); err == nil { // the parser has seen to it
			list = append(list, path)
		}
	}
	return list
}

// mayImport tells whether the file may import path. A test may look into any
// room but a stranger, and use the test libraries.
func (f file) mayImport(path string) bool {
	if room, ours := strings.CutPrefix(path, module+"/"); ours {
		switch {
		case room == f.room:
			return true
		case slices.Contains(strangers, room) && slices.Contains(strangers, f.room):
			return false
		}
		return f.test || slices.Contains(rooms[f.room], room)
	}
	for prefix, homes := range foreign {
		if !strings.HasPrefix(path, prefix) {
			continue
		}
		return slices.Contains(homes, f.room) || f.test && isTestLibrary(prefix)
	}
	return true
}

func isTestLibrary(prefix string) bool {
	return slices.Contains([]string{"github.com/stretchr/testify/", "github.com/rogpeppe/go-internal", "pgregory.net/rapid"}, prefix)
}

// wrongCalls tells the identifiers of unix and syscall that belong elsewhere,
// one line for each room they belong to.
func (f file) wrongCalls() []string {
	found := map[string][]string{}
	note := func(name string) {
		home := roomOfCall(name)
		if home != "" && home != f.room && !slices.Contains(found[home], name) {
			found[home] = append(found[home], name)
		}
	}
	system := f.systemNames()
	ast.Inspect(f.tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && slices.Contains(system, x.Name) || roomOfCall(n.Sel.Name) == "runner" && isField(n.Sel.Name) {
				note(n.Sel.Name)
			}
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && isField(key.Name) {
				note(key.Name)
			}
		}
		return true
	})
	var list []string
	for home, names := range found {
		slices.Sort(names)
		list = append(list, fmt.Sprintf("%s: %s must not use %s: it belongs to %s", f.path, f.room, strings.Join(names, ", "), home))
	}
	return list
}

// isField tells whether name is a field of syscall.SysProcAttr of the list.
func isField(name string) bool {
	return strings.HasSuffix(name, "flags") || strings.Contains(name, "idMappings")
}

// systemNames lists the names under which the file knows unix and syscall.
func (f file) systemNames() []string {
	var names []string
	for _, spec := range f.tree.Imports {
		switch path := strings.Trim(spec.Path.Value, `"`); {
		case path != "golang.org/x/sys/unix" && path != "syscall":
		case spec.Name != nil:
			names = append(names, spec.Name.Name)
		default:
			names = append(names, path[strings.LastIndexByte(path, '/')+1:])
		}
	}
	return names
}

// undocumented lists the rooms without a doc.go that begins with the sentence.
func undocumented(files []file) []string {
	said := map[string]bool{}
	for _, f := range files {
		if !f.test {
			said[f.room] = said[f.room] || strings.HasSuffix("/"+f.path, "/doc.go") && hasSentence(f.tree)
		}
	}
	var list []string
	for room, ok := range said {
		if !ok {
			list = append(list, room+" has no doc.go with a package comment")
		}
	}
	slices.Sort(list)
	return list
}

// hasSentence tells whether the package comment begins as godoc wants it; a
// command may begin with its name.
func hasSentence(tree *ast.File) bool {
	if tree.Doc == nil {
		return false
	}
	return tree.Name.Name == "main" || strings.HasPrefix(tree.Doc.Text(), "Package "+tree.Name.Name+" ")
}

// unexplained lists the modules that the house imports by itself and that the
// table of design does not name, and those that it names without need.
func unexplained(files []file, goMod, design string) []string {
	var list []string
	rows := map[string]bool{} // modules of the table, true for those in use
	for _, m := range moduleRow.FindAllStringSubmatch(design, -1) {
		rows[m[1]] = false
	}
	for _, f := range files {
		for _, path := range f.imports() {
			if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") || path == module || strings.HasPrefix(path, module+"/") {
				continue
			}
			switch name := moduleOf(path, goMod); {
			case name == "":
				list = append(list, "go.mod does not name the module of "+path)
			case !contains(rows, name):
				list = append(list, "docs/design.md does not say why "+name+" is needed")
			default:
				rows[name] = true
			}
		}
	}
	for name, used := range rows {
		if !used {
			list = append(list, "docs/design.md explains "+name+", which nobody imports")
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// moduleRow is the first cell of the table of modules.
var moduleRow = regexp.MustCompile("(?m)^\\| `([a-z0-9]+\\.[^`]+)` \\|")

func contains(rows map[string]bool, name string) bool {
	_, ok := rows[name]
	return ok
}

// moduleOf returns the longest module of a go.mod file that has the package.
func moduleOf(path, goMod string) string {
	longest := ""
	for line := range strings.Lines(goMod) {
		field := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(field) < 2 || !strings.HasPrefix(field[1], "v") {
			continue
		}
		if name := field[0]; (path == name || strings.HasPrefix(path, name+"/")) && len(name) > len(longest) {
			longest = name
		}
	}
	return longest
}
