package raft_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The rules of the house, see CONTRIBUTING.md. Each is a test, so that nobody
// has to remember them.

const modulePath = "github.com/seed-8da499c8/raft"

// source is a parsed Go file.
type source struct {
	name  string
	files *token.FileSet
	*ast.File
}

func (s source) at(node ast.Node) string { return s.files.Position(node.Pos()).String() }

func (s source) isTest() bool { return strings.HasSuffix(s.name, "_test.go") }

// imports returns the paths that the file imports.
func (s source) imports() []string {
	var paths []string
	for _, spec := range s.Imports {
		p, _ := strconv.Unquote(spec.Path.Value)
		paths = append(paths, p)
	}
	return paths
}

func parseFile(t *testing.T, name string) source {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, nil, parser.ParseComments)
	require.NoError(t, err)
	return source{filepath.ToSlash(name), files, file}
}

// rootSources returns the files of package raft but for its tests.
func rootSources(t *testing.T) []source {
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	var sources []source
	for _, name := range names {
		if s := parseFile(t, name); !s.isTest() {
			sources = append(sources, s)
		}
	}
	require.NotEmpty(t, sources)
	return sources
}

// walk calls visit with every file of the project, those of nested modules only
// if nested is set.
func walk(t *testing.T, root string, nested bool, visit func(name string)) {
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "bin"):
			return filepath.SkipDir
		case entry.IsDir():
			_, err := os.Stat(filepath.Join(name, "go.mod"))
			if !nested && name != "." && err == nil {
				return filepath.SkipDir
			}
		case entry.Type().IsRegular() && entry.Name() != ".git": // a file in a worktree
			visit(name)
		}
		return nil
	})
	require.NoError(t, err)
}

func read(t *testing.T, name string) string {
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(data)
}

// What is exported from the root has a comment: a sentence that starts with the
// name, or, for a group of constants or variables, one for the group.
func TestHouseExportedNamesAreDocumented(t *testing.T) {
	for _, s := range rootSources(t) {
		for _, decl := range s.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && exportedReceiver(d) {
					checkComment(t, s, d, d.Name.Name, d.Doc)
				}
			case *ast.GenDecl:
				checkGroup(t, s, d)
			}
		}
	}
}

// exportedReceiver reports whether d is a function, or a method of an exported
// type that its interface does not document already.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	documented := []string{"String", "Error", "MarshalText"}
	return ast.IsExported(receiver(d)) && !slices.Contains(documented, d.Name.Name)
}

func receiver(d *ast.FuncDecl) string {
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if name, ok := typ.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}

func checkGroup(t *testing.T, s source, d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if spec.Name.IsExported() {
				checkComment(t, s, spec, spec.Name.Name, firstOf(spec.Doc, d.Doc))
			}
		case *ast.ValueSpec:
			if !slices.ContainsFunc(spec.Names, (*ast.Ident).IsExported) {
				continue
			}
			switch {
			case spec.Doc != nil || !d.Lparen.IsValid():
				checkComment(t, s, spec, spec.Names[0].Name, firstOf(spec.Doc, d.Doc))
			default:
				assert.NotNil(t, d.Doc, "%s: %s has no comment, nor has its group", s.at(spec), spec.Names[0].Name)
			}
		}
	}
}

func firstOf(docs ...*ast.CommentGroup) *ast.CommentGroup {
	for _, doc := range docs {
		if doc != nil {
			return doc
		}
	}
	return nil
}

func checkComment(t *testing.T, s source, node ast.Node, name string, doc *ast.CommentGroup) {
	if !assert.NotNil(t, doc, "%s: %s has no comment", s.at(node), name) {
		return
	}
	text := strings.TrimSpace(doc.Text())
	assert.True(t, strings.HasPrefix(text, name+" ") || strings.HasPrefix(text, name+","), "%s: the comment does not start with %q", s.at(node), name)
	assert.True(t, strings.Contains(text, "."), "%s: the comment of %s is no sentence", s.at(node), name)
}

// The library never sleeps: whatever waits, waits for something.
func TestHouseNobodySleeps(t *testing.T) {
	for _, s := range rootSources(t) {
		ast.Inspect(s.File, func(node ast.Node) bool {
			if sel, ok := node.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
				t.Errorf("%s: sleeps", s.at(sel))
			}
			return true
		})
	}
}

// The core and the driver are stepped: no goroutine, lock, socket, disk, clock
// or logger can be reached from them.
func TestHouseTheCoreIsPure(t *testing.T) {
	forbidden := []string{"context", "crypto/rand", "io", "net", "os", "sync", "sync/atomic", "go.uber.org/zap"}
	pure := `raft.go election.go replication.go log.go snapshot.go driver.go compaction.go
		membership.go membership_change.go configurations.go leadership_transfer.go reconfiguration.go read.go read_waiters.go
		session_table.go pace.go status.go`
	for _, name := range strings.Fields(pure) {
		s := parseFile(t, name)
		for _, path := range s.imports() {
			assert.NotContains(t, forbidden, path, "%s imports it", name)
		}
		ast.Inspect(s.File, func(node ast.Node) bool {
			switch n := node.(type) {
			case *ast.GoStmt, *ast.ChanType, *ast.SelectStmt, *ast.SendStmt:
				t.Errorf("%s: a goroutine or a channel", s.at(n))
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" {
					clock := []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}
					assert.NotContains(t, clock, n.Sel.Name, "%s: reads a clock", s.at(n))
				}
			}
			return true
		})
	}
}

// LS6: a clock that is set moves nothing. Times are only compared with each other, by the
// monotonic clock that they carry, which these methods would lose, and none leaves its process.
func TestLS6NobodyLooksAtTheTimeOfDay(t *testing.T) {
	lost := []string{"Unix", "UnixMilli", "UnixMicro", "UnixNano", "UTC", "Local", "AddDate", "Truncate", "Format", "AppendFormat"}
	for _, s := range rootSources(t) {
		ast.Inspect(s.File, func(node ast.Node) bool {
			switch n := node.(type) {
			case *ast.SelectorExpr:
				assert.NotContains(t, lost, n.Sel.Name, "%s: the time of day", s.at(n))
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Round" {
					zero, ok := n.Args[0].(*ast.BasicLit)
					assert.False(t, ok && zero.Value == "0", "%s: the time of day", s.at(n))
				}
			}
			return true
		})
	}
}

// What is internal speaks bytes and integers: it never imports package raft.
// Nested modules are programs around the library, and may.
func TestHouseInternalPackagesStandAlone(t *testing.T) {
	walk(t, "internal", false, func(name string) {
		if strings.HasSuffix(name, ".go") {
			assert.NotContains(t, parseFile(t, name).imports(), modulePath, "%s imports it", name)
		}
	})
}

// The map of files at the end of the package comment is complete.
func TestHouseFileMapIsComplete(t *testing.T) {
	doc := read(t, "doc.go")
	for _, s := range rootSources(t) {
		line := regexp.MustCompile(`(?m)^//\t` + regexp.QuoteMeta(s.name) + `  +\w`)
		assert.True(t, s.name == "doc.go" || line.MatchString(doc), "doc.go does not say what %s is for", s.name)
	}
	for _, name := range regexp.MustCompile(`[a-z_]+\.go\b`).FindAllString(doc, -1) {
		_, err := os.Stat(name)
		assert.NoError(t, err, "doc.go names %s", name)
	}
}

// The Go code in README.md and in the package comment is the code of the
// examples, which the tests run.
func TestHouseShownCodeRuns(t *testing.T) {
	examples := read(t, "example_test.go") + read(t, "example_members_test.go")
	shown := 0
	for _, block := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(read(t, "README.md"), -1) {
		if strings.HasPrefix(block[1], "package main") {
			continue // see below
		}
		shown++
		checkShown(t, "README.md", block[1], examples)
	}
	assert.Positive(t, shown, "README.md shows no code")

	var parser comment.Parser
	usage := false
	for _, block := range parser.Parse(parseFile(t, "doc.go").Doc.Text()).Content {
		switch b := block.(type) {
		case *comment.Heading:
			usage = fmt.Sprint(b.Text) == "[Usage]"
		case *comment.Code:
			if usage {
				checkShown(t, "doc.go", b.Text, examples)
			}
		}
	}
}

// The quick start, pasted into a file, is a program: it imports what it uses.
func TestHouseQuickStartIsAProgram(t *testing.T) {
	_, section, _ := strings.Cut(read(t, "README.md"), "\n## Quick start\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var program strings.Builder
	for _, block := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(section, -1) {
		program.WriteString(block[1])
	}
	file, err := parser.ParseFile(token.NewFileSet(), "main.go", program.String(), 0)
	require.NoError(t, err)
	require.NotNil(t, file.Scope.Lookup("main"))
	imported, used := map[string]bool{}, map[string]bool{}
	for _, i := range file.Imports {
		imported[path.Base(strings.Trim(i.Path.Value, `"`))] = true
	}
	ast.Inspect(file, func(node ast.Node) bool {
		if s, ok := node.(*ast.SelectorExpr); ok {
			if name, ok := s.X.(*ast.Ident); ok && name.Obj == nil {
				used[name.Name] = true
			}
		}
		return true
	})
	require.Equal(t, used, imported)
}

// checkShown checks that code is part of the examples, however far indented.
func checkShown(t *testing.T, where, code, examples string) {
	for _, indent := range []string{"", "\t", "\t\t"} {
		lines := strings.SplitAfter(code, "\n")
		for i, line := range lines {
			if strings.TrimSpace(line) != "" {
				lines[i] = indent + line
			}
		}
		if strings.Contains(examples, strings.Join(lines, "")) {
			return
		}
	}
	t.Errorf("%s shows code that is in no example:\n%s", where, code)
}

// README.md explains every setting and every error.
func TestHouseReadmeIsComplete(t *testing.T) {
	readme := read(t, "README.md")
	for _, s := range rootSources(t) {
		ast.Inspect(s.File, func(node ast.Node) bool {
			switch n := node.(type) {
			case *ast.TypeSpec:
				if config, ok := n.Type.(*ast.StructType); ok && n.Name.Name == "Config" {
					for _, field := range config.Fields.List {
						name := field.Names[0].Name
						assert.True(t, strings.Contains(readme, "\n| `"+name+"` |"), "README.md has no row for the field %s of Config", name)
					}
				}
			case *ast.ValueSpec:
				if name := n.Names[0].Name; strings.HasPrefix(name, "Err") && ast.IsExported(name) {
					assert.True(t, strings.Contains(readme, "`"+name+"`"), "README.md does not explain the error %s", name)
				}
			}
			return true
		})
	}
}

// Every scenario has a test or a script, which testdata/scenarios.md explains, or is
// listed there as still open; none is both. The checks that it explains are used by
// the rig.
func TestHouseScenariosAreExplained(t *testing.T) {
	page, rig := read(t, "testdata/scenarios.md"), read(t, "rig_test.go")
	explained := ids(t, page, `(?m)^\| ([A-Z]+[0-9]+) \| `)
	open := ids(t, page, `(?m)^- ([A-Z]+[0-9]+): `)
	used := scenariosTold(t)
	for id, name := range used {
		assert.Contains(t, explained, id, "testdata/scenarios.md does not explain %s of %s", id, name)
		assert.NotContains(t, open, id, "testdata/scenarios.md lists %s as open, which %s is about", id, name)
	}
	for id := range explained {
		if strings.HasPrefix(id, "G") {
			assert.Regexp(t, `\b`+id+`\b`, rig, "testdata/scenarios.md explains %s, which the rig does not check", id)
		} else {
			assert.Contains(t, used, id, "testdata/scenarios.md explains %s, which has neither test nor script", id)
		}
	}
	known := scenarios()
	for _, id := range known {
		assert.True(t, explained[id] || open[id], "testdata/scenarios.md neither explains %s nor lists it as open", id)
	}
	for id := range open {
		assert.Contains(t, known, id, "testdata/scenarios.md lists %s as open, and there is no such scenario", id)
	}
}

// scenarios are the ids of all hazards that are to have a test or a script. It is
// the list that has gaps, and not the tests.
func scenarios() []string {
	return strings.Fields(`
		E1 E3 E5 E7 E9 E10 E11 E13 E14 E15
		P1 P2 P3 P5 P6
		L1 L2 L3 L6 L7 L8 L10 L12 L13
		C1 C2 C3 C4 C6
		CS1 CS2 CS3 CS4
		S1 S2 S5 S7 S8 S11 S12 S15 S16 S17 S18
		D1 D2 D4 D5 D6 D9 D10 D11 D13 D15 D16 D17 D18
		W1 W3 W4 W6
		A1 A2 A3 A5 A6 A7 A8 A11
		R1 R2 R3 R6 R7
		LS1 LS2 LS5
		M1 M2 M3 M4 M5 M6 M10 M11 M13 M14 M16
		T1 T3 T4 T5
		F1 F2 F4 F5 F6 F7
		N1 N2 N3 N4 N6 N8 N10
		V1`)
}

// ids returns what a pattern finds in a page, each once.
func ids(t *testing.T, page, pattern string) map[string]bool {
	found := map[string]bool{}
	for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(page, -1) {
		assert.False(t, found[match[1]], "testdata/scenarios.md has %s twice", match[1])
		found[match[1]] = true
	}
	return found
}

// scenariosTold returns the ids in the names of tests and scripts, each with one of
// these names.
func scenariosTold(t *testing.T) map[string]string {
	told := map[string]string{}
	test := regexp.MustCompile(`(?m)^func (Test([A-Z]{1,2}[0-9]+)[A-Z]\w*)\(`)
	script := regexp.MustCompile(`^testdata/scripts/([A-Z]{1,2}[0-9]+)_\w+\.txt$`)
	walk(t, ".", true, func(name string) {
		if strings.HasSuffix(name, "_test.go") {
			for _, match := range test.FindAllStringSubmatch(read(t, name), -1) {
				told[match[2]] = match[1]
			}
		}
		if match := script.FindStringSubmatch(filepath.ToSlash(name)); match != nil {
			told[match[1]] = name
		}
	})
	return told
}

// Links between files lead somewhere.
func TestHouseLinksResolve(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "UPGRADING.md", "SECURITY.md"} {
		for _, match := range link.FindAllStringSubmatch(read(t, name), -1) {
			target, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			if target == "" {
				target = name
			}
			if _, err := os.Stat(filepath.FromSlash(path.Clean(target))); !assert.NoError(t, err, "%s links to %s", name, match[1]) {
				continue
			}
			if anchor != "" && strings.HasSuffix(target, ".md") {
				assert.Contains(t, anchors(read(t, target)), anchor, "%s links to %s", name, match[1])
			}
		}
	}
}

// anchors returns what the headings of a Markdown file can be linked by.
func anchors(markdown string) []string {
	var names []string
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(markdown, -1) {
		name := strings.ReplaceAll(strings.ToLower(heading[1]), " ", "-")
		names = append(names, regexp.MustCompile(`[^\p{L}\p{N}_-]`).ReplaceAllString(name, ""))
	}
	return names
}

// Changes are told under Unreleased until they are released.
func TestHouseChangelogHasUnreleased(t *testing.T) {
	assert.True(t, strings.Contains(read(t, "CHANGELOG.md"), "\n## [Unreleased]\n"), "CHANGELOG.md has no section for what is unreleased")
}

// No file holds notes to oneself, nor anything of the machine that it was
// written on.
func TestHouseNothingIsLeftBehind(t *testing.T) {
	leftovers := []*regexp.Regexp{
		regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|X` + `XX|HA` + `CK)\b`),
		regexp.MustCompile(`(^|[\s"'` + "`" + `(=:])/(home|root|Users|work|workspace|mnt)/\w`),
		regexp.MustCompile(`https?://[^\s)]*(proxy|mirror|registry)`),
		regexp.MustCompile(`(?m)^(<{7} |>{7} |={7}$)`), // of a merge
	}
	walk(t, ".", true, func(name string) {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		if !utf8.Valid(data) || bytes.ContainsRune(data, 0) {
			return
		}
		for _, leftover := range leftovers {
			if at := leftover.FindIndex(data); at != nil {
				t.Errorf("%s:%d: %q", name, 1+bytes.Count(data[:at[0]], []byte("\n")), data[at[0]:at[1]])
			}
		}
	})
}
