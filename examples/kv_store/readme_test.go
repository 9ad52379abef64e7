package main

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// readmeLines returns the shell commands of README.md between two sentences.
func readmeLines(t *testing.T, from, to string) []string {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	require.NoError(t, err)
	_, part, found := strings.Cut(string(readme), from)
	require.True(t, found)
	part, _, found = strings.Cut(part, to)
	require.True(t, found)
	lines := regexp.MustCompile(`(?m)^(curl|go run|session=).*`).FindAllString(part, -1)
	for i, line := range lines {
		line, _, _ = strings.Cut(line, "  #")
		lines[i] = strings.TrimSpace(line)
	}
	return lines
}

// curled is what a line with curl sends.
type curled struct {
	method, address, path, content string
	header                         http.Header
}

var shellWord = regexp.MustCompile(`'[^']*'|"[^"]*"|[^\s;]+`)

func parseCurl(t *testing.T, line string) curled {
	words := shellWord.FindAllString(strings.TrimSuffix(line, "; echo"), -1)
	require.Equal(t, "curl", words[0], line)
	c := curled{method: "GET", header: http.Header{}}
	for i := 1; i < len(words); i++ {
		next := func() string {
			i++
			return strings.Trim(words[i], `'"`)
		}
		switch words[i] {
		case "-L", "-s", "-i":
		case "-X":
			c.method = next()
		case "-d":
			c.content = next()
			if c.method == "GET" {
				c.method = "POST"
			}
		case "-H":
			name, value, _ := strings.Cut(next(), ": ")
			c.header.Set(name, value)
		default:
			url, ok := strings.CutPrefix(strings.Trim(words[i], `'"`), "http://")
			require.True(t, ok, "%s: %s", line, words[i])
			c.address, c.path, _ = strings.Cut(url, "/")
			c.path = "/" + c.path
		}
	}
	return c
}

// testReadme does what README.md says, on nodes that are there.
func testReadme(t *testing.T, cluster *testCluster) {
	curl := client(t)
	here := strings.NewReplacer("127.0.0.1:8001", cluster.members[0].http, "127.0.0.1:8002", cluster.members[1].http, "127.0.0.1:8003", cluster.members[2].http)
	session := ""
	var echoed []string
	lines := readmeLines(t, "Any node takes any request.", "A fourth node can join")
	for _, line := range lines {
		command, opens := strings.CutPrefix(line, "session=$(")
		command = strings.ReplaceAll(here.Replace(strings.TrimSuffix(command, ")")), "$session", session)
		c := parseCurl(t, command)
		r := do(t, curl, c.address, c.method, c.path, c.content, c.header)
		require.Equal(t, 200, r.code, "%s: %s", line, r.body)
		if opens {
			session = r.body
		}
		if strings.HasSuffix(line, "; echo") {
			echoed = append(echoed, r.body)
		}
		if strings.Contains(line, " -i ") {
			require.NotEmpty(t, r.header.Get("Raft-Index"), line)
		}
	}
	require.Equal(t, []string{"world", "2", "3", "3", "4"}, echoed)

	o, err := parseFlags(nil, nil)
	require.NoError(t, err)
	for line := range strings.Lines(strings.TrimSpace(curls(o.members))) {
		require.Contains(t, lines, strings.TrimSpace(line), "what the program says at its start")
	}
}
