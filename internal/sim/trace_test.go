package sim

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tracedWorld returns a world of two nodes whose trace takes messages for texts.
func tracedWorld() (*World, *Network, *Trace) {
	w := NewWorld(1)
	net := w.NewNetwork(2, Quality{Delay: time.Millisecond})
	return w, net, w.Record(net, []string{"a", "b"}, func(m any) Label { return Label{Kind: "text", Text: m.(string)} })
}

// lifeOn returns what the script of a page will read.
func lifeOn(t *testing.T, page string) tracedLife {
	found := regexp.MustCompile(`(?s)<script type="application/json" id="life">(.*?)</script>`).FindStringSubmatch(page)
	require.NotNil(t, found)
	var life tracedLife
	require.NoError(t, json.Unmarshal([]byte(found[1]), &life))
	return life
}

func pageOf(t *testing.T, trace *Trace, verdict error) string {
	var b strings.Builder
	require.NoError(t, trace.WritePage(&b, "a title", []string{"a remark"}, verdict))
	return b.String()
}

func run(w *World, until time.Duration) { w.RunUntil(until, func() bool { return false }) }

// Each message is recorded with its way and what became of it.
func TestTraceTellsTheFateOfMessages(t *testing.T) {
	w, net, trace := tracedWorld()
	nothing := func() {}
	w.After(time.Second, func() {
		net.Send(0, 1, "arrives", nothing)
		net.Cut(1, 0)
		net.Send(1, 0, "never leaves", nothing)
		stream := net.NewStream(1, 0, nil)
		stream.Send("breaks the stream", nothing)
		stream.Send("is not sent", nothing)
		mend := net.Worsen(0, 1, Quality{Duplicate: 1})
		net.Send(0, 1, "comes twice", nothing)
		mend()
		mend = net.Worsen(0, 1, Quality{Loss: 1})
		net.Send(0, 1, "is lost", nothing)
		mend()
	})
	w.After(2*time.Second, func() {
		net.Send(0, 1, "is cut off on its way", nothing)
		net.Cut(0, 1)
	})
	w.After(3*time.Second, net.Heal)
	w.After(4*time.Second, func() { net.Send(0, 1, "is under way", nothing) })
	run(w, 4*time.Second)

	life := lifeOn(t, pageOf(t, trace, nil))
	told := map[string][]fate{}
	for _, m := range life.Messages {
		require.Equal(t, "text", life.Words[m[6]])
		text := life.Words[m[7]]
		told[text] = append(told[text], fate(m[4]))
		if text == "arrives" {
			require.Equal(t, row{0, 1, 1_000_000, 1_001_000}, m[:4])
		}
	}
	require.Equal(t, map[string][]fate{
		"arrives": {arrived}, "never leaves": {cutOff}, "breaks the stream": {wentAlong}, "comes twice": {arrived, arrived}, "is lost": {lost},
		"is cut off on its way": {cutOff}, "is under way": {underWay},
	}, told)
	require.Equal(t, int64(4), life.Messages[4][5], "the second copy says so")
	require.Equal(t, []row{{1, 0, 1_000_000, 3_000_000}, {0, 1, 2_000_000, 3_000_000}}, life.Cuts)
	require.Equal(t, int64(3_000_000), life.Healed)
	require.Equal(t, int64(4_000_000), life.End)
}

// A state is recorded when it is new, a line when it is told, to others too.
func TestTraceTellsStatesAndLines(t *testing.T) {
	w := NewWorld(1)
	heard := 0
	w.Tell = func(time.Duration, Line) { heard++ }
	trace := w.Record(w.NewNetwork(2, Quality{}), []string{"a", "b"}, nil)
	leads := State{Up: true, Role: "leader", Term: 3, Vote: 1, Leader: 1, Last: 9, Durable: 8, Commit: 7, Applied: 6}
	w.After(time.Second, func() {
		trace.Show(1, leads)
		trace.Show(1, leads)
		w.Note(Line{Kind: "become leader", Node: 1, Peer: -1, Text: "</script><script>"})
	})
	run(w, 2*time.Second)
	page := pageOf(t, trace, errors.New("a promise: <b>broken</b>"))
	life := lifeOn(t, page)
	require.Len(t, life.States, 1)
	require.Equal(t, row{1_000_000, 1, 1}, life.States[0][:3])
	require.Equal(t, row{3, 1, 1, 9, 8, 7, 6}, life.States[0][4:])
	require.Equal(t, "leader", life.Words[life.States[0][3]])
	require.Len(t, life.Lines, 1)
	require.Equal(t, "</script><script>", life.Words[life.Lines[0][4]], "which does not end the data")
	require.Equal(t, 1, heard)
	require.Equal(t, "a promise: <b>broken</b>", life.Verdict)
	require.Equal(t, "a title", life.Title)
	require.Equal(t, 2, strings.Count(page, "<script"), "the data and the program")
}

// The page needs nothing but itself.
func TestTracePageIsSelfContained(t *testing.T) {
	_, _, trace := tracedWorld()
	page := pageOf(t, trace, nil)
	require.NotContains(t, page, dataMark)
	for _, pattern := range []string{`https?:`, `(?i)\bsrc\s*=`, `(?i)<link\b`, `@import`, `\burl\(`, `\bimport\b`, `\bfetch\(`, `XMLHttpRequest`} {
		require.NotRegexp(t, pattern, page)
	}
}

// Who records nothing pays nothing for it.
func TestTraceThatIsOff(t *testing.T) {
	w := NewWorld(1)
	net := w.NewNetwork(2, Quality{Delay: time.Millisecond})
	message := any("a message")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		net.trace.message(0, 1, message).double(true)
		net.trace.message(0, 1, message).ends(arrived)
		net.trace.fault(Fault{})
		net.trace.Show(0, State{})
		net.trace.link(0, 1, true)
		net.trace.heal()
	}))
}
