package raft

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// The scripts in testdata/scripts are stories of the core and the driver, told
// step by step: a command at the start of a line, and indented below it all that
// it led to. Lines that start with # tell what the story is about. The nodes are
// those of the rig, whose checks go on all the time.
//
// Disks, state machines, reads and the work on snapshots get on by themselves after
// each command, unless they are told to stall. Messages do not: they lie on the table until a
// command delivers, drops or repeats them, or settle or pass delivers them all.
//
// What is printed, in the order in which it happens:
//
//	a: FACT -> ACTION            the narration of the core
//	a, of b: FACT -> ACTION      the same, where "it" in the fact is b
//	a commits 3                  its commit index is 3 now
//	a writes term 2, vote a      a write is handed to its disk
//	a -> b: RequestVote(...)     a message leaves
//	a answers x: ...             whoever proposed x at a learns its outcome
//	a answers that ...           whoever wanted something else of a learns it
//	a restores 10@2              its state machine becomes what its snapshot says
//	a stops: ...                 its process ends, with the reason
//
// Heartbeats and their answers are hidden until they are asked for with show.

// script is a story that is being told.
type script struct {
	t      *testing.T
	rig    *rig
	words  []string         // of the command that are not read yet
	rest   string           // the command behind its first colon
	hidden map[string]bool  // kinds of lines that are not printed
	commit map[NodeID]Index // as printed last
	life   map[NodeID]int   // for which that holds
	out    []string
}

// scriptCommand is a word of the language.
type scriptCommand struct {
	name, usage string
	run         func(*script)
}

// scriptCommands are all of the language. A LINK is written a -> b, and * stands
// for any node. Which of several messages is meant says #2 behind the link and
// the KIND, which is the word before the parenthesis; without it all that are
// there are. Times are written as 2 timeouts, 1 heartbeat or 150ms.
var scriptCommands = []scriptCommand{
	// The cluster at the start.
	{"nodes", "nodes NAME... [joining NAME...] [in files]: members of a new cluster, and nodes that are none yet; none of them runs; in files: on disks that can lose power", (*script).makeNodes},
	{"limits", "limits [batch BYTES] [window MESSAGES] [cache BYTES] [chunk BYTES] [sync BYTES] [snapshots ENTRIES] [trailing ENTRIES]: of nodes that start from now on", (*script).setLimits},
	{"seed", "seed NUMBER: of the chance in nodes that start from now on", (*script).setSeed},
	{"start", "start NODE...: for the first time, with nothing but the first configuration; or without, waiting to be taken in", (*script).start},
	{"lead", "lead NODE: all members start for the first time, and this one is elected, of which nothing is printed", (*script).lead},
	{"given", "given NODE: log RUNS[, term N][, vote NODE][, commit N][, compacted N][, snapshot N][, cold][, restarted]: it runs, in this state; its snapshot is of what is compacted if nothing else is said", (*script).startGiven},

	// Time, and elections.
	{"pass", "pass TIME: with all that happens in it, but for what is held, stalled or frozen", (*script).pass},
	{"skip", "skip TIME: at once; nobody's election wait ends", (*script).skip},
	{"tick", "tick NODE: it does what is due by now", (*script).tick},
	{"timeout", "timeout NODE: its election wait is over", (*script).timeOut},
	{"elect", "elect NODE: it campaigns after a quiet timeout, all messages are delivered, and it wins", (*script).elect},
	{"crown", "crown NODE: it campaigns, and members that do not run grant it all", (*script).crown},

	// The network.
	{"deliver", "deliver LINK [KIND] [#N]", (*script).deliver},
	{"drop", "drop LINK [KIND] [#N]: whoever waits for the answer learns at once that none comes", (*script).drop},
	{"repeat", "repeat LINK [KIND] [#N]: a copy of it lies on the table too", (*script).repeat},
	{"send", "send LINK: MESSAGE: a request by hand, which arrives at once", (*script).send},
	{"misdeliver", "misdeliver NODE LINK: MESSAGE: the same, and it arrives at that node", (*script).misdeliver},
	{"reply", "reply LINK: MESSAGE: an answer by hand, for a member that does not run; it arrives at once", (*script).reply},
	{"settle", "settle: all messages are delivered, and those that come of them", (*script).settle},
	{"hold", "hold LINK: settle and pass leave messages there on the table", (*script).hold},
	{"release", "release LINK: they do not any more", (*script).release},
	{"block", "block LINK: messages are lost from now on, those on the table too", (*script).block},
	{"isolate", "isolate NODE: block all its links, in both directions", (*script).isolate},
	{"heal", "heal: no link is blocked or held", (*script).heal},

	// Disks, state machines and processes.
	{"stall", "stall NODE...: its disk ends no write by itself", (*script).stall},
	{"finish", "finish NODE: its disk ends the write under way", (*script).finish},
	{"resume", "resume NODE...: its disk is as before", (*script).resume},
	{"fail", "fail NODE write|sync: this step of the write under way returns an input/output error; what was not synced is dropped", (*script).fail},
	{"delay", "delay reads|commands|snapshots NODE: its reads of entries, its state machine, or its work on the files of snapshots, do not get on", (*script).delay},
	{"hurry", "hurry reads|commands|snapshots NODE: they do again", (*script).hurry},
	{"freeze", "freeze NODE...: its process stands still, and knows nothing of it", (*script).freeze},
	{"thaw", "thaw NODE...: it goes on", (*script).thaw},
	{"crash", "crash NODE [after the write]: its process ends, before the write under way or between its end and the news of it", (*script).crash},
	{"power", "power NODE [before the write|before the sync|after the sync] [lose|keep|tear|scatter]: it loses power; what becomes of bytes that are not synced", (*script).power},
	{"restart", "restart NODE...", (*script).restart},
	{"wipe", "wipe NODE: it starts on a new disk, under its old name", (*script).wipe},

	// Callers.
	{"propose", "propose NODE COMMAND...: in one batch; x*100 is a command of 100 bytes", (*script).propose},
	{"take", "take NODE...: somebody wants a snapshot of it", (*script).take},
	{"change", "change NODE [based on N]: add|learn|promote|demote|remove NODE, ...: somebody wants it to have the members changed; learn adds a learner", (*script).changeMembers},
	{"transfer", "transfer NODE [to NODE]: somebody wants it to hand leadership over", (*script).transferLeadership},

	// Looking.
	{"show", "show KIND...: notes, commits, writes, messages, heartbeats, answers or times are printed", (*script).show},
	{"hide", "hide KIND...: they are not", (*script).hide},
	{"state", "state [NODE...]", (*script).state},
	{"disk", "disk NODE...: what its storage holds", (*script).disk},
	{"members", "members [NODE...]: the configuration in force, and those before it that are kept", (*script).members},
	{"peers", "peers NODE: what a leader knows of the others", (*script).peers},
	{"table", "table: the messages that are under way", (*script).table},
	{"applied", "applied [NODE...]: the commands that its state machine was given since its start, and what it has of a snapshot in parentheses", (*script).applied},
	{"why", "why NODE: the reason that its status gives", (*script).why},
	{"healthy", "healthy: left alone, the cluster has one leader, a fresh command succeeds, and all members are equal", (*script).healthy},
}

func TestScript(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/scripts/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			told, problems := runScript(t, filepath.ToSlash(file), string(text))
			if *rewrite {
				require.NoError(t, os.WriteFile(file, []byte(told), 0o644))
			}
			for _, p := range problems {
				if p.mistake || !*rewrite {
					t.Error(p.text)
				}
			}
		})
	}
}

// What cannot be obeyed is reported with file and line, what went wrong, and how the
// command is used.
func TestScriptReportsMistakes(t *testing.T) {
	const given = "nodes a b c\ngiven b: log 1..2@1, term 2\n"
	for text, wrong := range map[string]string{
		"state":                                    "the first command is nodes",
		"nodes":                                    "a node is missing",
		"nodes a a":                                `"a" cannot be the name of a node`,
		given + "juggle b":                         "there is no such command",
		given + "timeout d":                        `there is no node "d"`,
		given + "timeout a":                        "a does not run",
		given + "timeout":                          "a node is missing",
		given + "timeout b b":                      `"b" is left over`,
		given + "tick b: now":                      `"now" is left over`,
		given + "pass":                             "a time is missing",
		given + "pass 3 days":                      "times are in timeouts or heartbeats",
		given + "deliver a b":                      "a link is written a -> b",
		given + "deliver a -> b":                   "no such message is under way",
		given + "deliver a -> b Vote":              `"Vote" is not a kind of message`,
		given + "finish b":                         "no write of b is under way",
		given + "fail b sync":                      "b has no disk",
		given + "show everything":                  `no lines of the kind "everything"`,
		given + "given b: log 1@1":                 "b was started before",
		given + "given c: log 2@1":                 "a log starts with the first configuration",
		given + "given c: log 1@1 3@1":             "3@1 does not follow 1@1",
		given + "given c: log 1@1, term 1, term 1": `"term 1" is none of`,
		given + "given c: log 1..3@1, commit 2, compacted 3": "as far as it is committed",
		given + "send a -> b: Hello(term 1)":                 "there is no message",
		given + "send a -> b: Heartbeat":                     "is no message",
		given + "send a -> b: Heartbeat(term x)":             `term "x" is not a number`,
		given + "send a -> b: RequestVote(term 3, last 2)":   "is not an entry",
		given + "send a -> b: HeartbeatAnswer(term 2)":       "answers are sent with reply",
		given + "reply a -> b: HeartbeatAnswer(term 2)":      "b has asked a nothing of the kind",
		given + "reply a -> b: VoteAnswer(term 2)":           "either granted or refused",
		given + "change b: juggle a":                         `"juggle a" is no change`,
		given + "change b: add":                              "a node is missing",
	} {
		_, problems := runScript(t, "story.txt", text)
		require.Len(t, problems, 1, text)
		require.True(t, problems[0].mistake)
		require.Regexp(t, `^story\.txt:[123]: `, problems[0].text)
		require.Contains(t, problems[0].text, wrong)
	}
}

// Other output than before is shown line by line, and what the script says
// besides is kept.
func TestScriptShowsHowOutputDiffers(t *testing.T) {
	const text = `# A story.

nodes a b c
given b: log 1..2@1, term 2
  there was a line
state
  b: follower, term 2, log 1..2@1, commit 0
send a -> b: Heartbeat(term 3, commit 0)
  b, of a: it leads term 3 -> follow leader
  b writes term 4
`
	told, problems := runScript(t, "story.txt", text)
	require.Len(t, problems, 2)
	require.Equal(t, "story.txt:4: given b: log 1..2@1, term 2: the output differs (- before, + now):\n  - there was a line", problems[0].text)
	require.Equal(t, "story.txt:8: send a -> b: Heartbeat(term 3, commit 0): the output differs (- before, + now):\n"+
		"    b, of a: it leads term 3 -> follow leader\n  - b writes term 4\n  + b writes term 3", problems[1].text)
	require.Equal(t, strings.NewReplacer("  there was a line\n", "", "term 4", "term 3").Replace(text), told)
	again, problems := runScript(t, "story.txt", told)
	require.Empty(t, problems)
	require.Equal(t, told, again)
}

// Messages are read in the form in which they are written.
func TestScriptReadsWhatItWrites(t *testing.T) {
	r := newRig(t, "a b c")
	for _, text := range []string{
		"RequestVote(term 2, last 3@1)", "RequestVote(term 2, last 3@1, transfer)", "PreVote(term 2, last 3@1)",
		"VoteAnswer(term 2, granted)", "VoteAnswer(term 2, refused: it voted for another candidate)", "PreVoteAnswer(term 2, granted)",
		"Heartbeat(term 2, commit 1)", "HeartbeatAnswer(term 2)",
		"AppendEntries(term 2, prev 1@1, entries 2..4@1 5@2, commit 1)", "AppendEntries(term 2, prev 1@1, commit 1)",
		"AppendAnswer(term 2, match 3)", "AppendAnswer(term 2, rejected behind 5, agree 3@1)",
		"TimeoutNow(term 2)", "TimeoutNowAnswer(term 3, campaigns)", "TimeoutNowAnswer(term 2, does not campaign)",
	} {
		message, err := parseMessage(r, text)
		require.NoError(t, err)
		require.Equal(t, text, messageLine(message))
		require.Contains(t, messageKinds, messageKind(message))
	}
}

// problem is what is wrong with a script, with file and line.
type problem struct {
	text    string
	mistake bool // not only other output than before
}

// runScript tells a story anew, and returns it with its output as it is now. It
// ends at a mistake.
func runScript(t *testing.T, file, text string) (told string, problems []problem) {
	s := &script{t: t, hidden: map[string]bool{"heartbeats": true, "times": true}, commit: map[NodeID]Index{}, life: map[NodeID]int{}}
	blocks := scriptBlocks(text)
	for i, b := range blocks {
		where := fmt.Sprintf("%s:%d", file, b.line)
		if b.command != "" {
			out, mistake := s.obey(where, b.command)
			if mistake != "" {
				for _, rest := range blocks[i:] {
					told += rest.String()
				}
				return told, append(problems, problem{fmt.Sprintf("%s: %s: %s", where, b.command, mistake), true})
			}
			if diff := lineDiff(b.output, out); diff != "" {
				problems = append(problems, problem{fmt.Sprintf("%s: %s: the output differs (- before, + now):\n%s", where, b.command, diff), false})
			}
			blocks[i].output = out
		}
		told += blocks[i].String()
	}
	return told, problems
}

// scriptBlock is a command with its output, or a line of something else.
type scriptBlock struct {
	line    int
	other   string // a comment, or nothing
	command string
	output  []string
}

func (b scriptBlock) String() string {
	if b.command == "" {
		return b.other + "\n"
	}
	return strings.Join(append([]string{b.command}, indented(b.output)...), "\n") + "\n"
}

func indented(lines []string) []string {
	var with []string
	for _, line := range lines {
		with = append(with, "  "+line)
	}
	return with
}

func scriptBlocks(text string) []scriptBlock {
	var blocks []scriptBlock
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		last := len(blocks) - 1
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
			blocks = append(blocks, scriptBlock{line: i + 1, other: line})
		case strings.HasPrefix(line, "  ") && last >= 0 && blocks[last].command != "":
			blocks[last].output = append(blocks[last].output, strings.TrimPrefix(line, "  "))
		default:
			blocks = append(blocks, scriptBlock{line: i + 1, command: line})
		}
	}
	return blocks
}

// mistake is what a handler panics with if its command cannot be obeyed.
type mistake string

func (s *script) mistake(format string, args ...any) { panic(mistake(fmt.Sprintf(format, args...))) }

// obey carries out a command, and what the disks and state machines make of it.
func (s *script) obey(where, line string) (out []string, wrong string) {
	fields := strings.Fields(line)
	at := slices.IndexFunc(scriptCommands, func(c scriptCommand) bool { return c.name == fields[0] })
	if at < 0 {
		return nil, "there is no such command"
	}
	command, done := scriptCommands[at], false
	defer func() {
		switch r := recover().(type) {
		case nil:
			if !done { // the test ends here: a check of the rig failed
				s.t.Logf("%s: %s\n%s", where, line, strings.Join(s.out, "\n"))
			}
		case mistake:
			wrong = fmt.Sprintf("%s\nusage: %s", string(r), command.usage)
		default:
			wrong = fmt.Sprintf("panic: %v\n%s\n%s", r, strings.Join(s.out, "\n"), debug.Stack())
		}
	}()
	head, rest, _ := strings.Cut(line, ":")
	s.words, s.rest, s.out = strings.Fields(head)[1:], strings.TrimSpace(rest), nil
	if s.rig == nil && command.name != "nodes" {
		s.mistake("the first command is nodes")
	}
	command.run(s)
	if len(s.words) > 0 || s.rest != "" {
		s.mistake("%q is left over", strings.TrimSpace(strings.Join(s.words, " ")+" "+s.rest))
	}
	for s.rig.workOne() {
	}
	done = true
	return s.out, ""
}

// Reading the words of a command.

func (s *script) word(what string) string {
	if len(s.words) == 0 {
		s.mistake("%s is missing", what)
	}
	w := s.words[0]
	s.words = s.words[1:]
	return w
}

// optional reads some words, if they come next.
func (s *script) optional(words ...string) bool {
	if len(s.words) < len(words) || !slices.Equal(s.words[:len(words)], words) {
		return false
	}
	s.words = s.words[len(words):]
	return true
}

func (s *script) number(word string) uint64 {
	n, err := strconv.ParseUint(word, 10, 63)
	if err != nil {
		s.mistake("%q is not a number", word)
	}
	return n
}

func (s *script) node() NodeID { return s.nodeNamed(s.word("a node")) }

func (s *script) nodeNamed(word string) NodeID {
	if !slices.Contains(s.rig.ids, NodeID(word)) {
		s.mistake("there is no node %q", word)
	}
	return NodeID(word)
}

// running is a node that runs and is not frozen.
func (s *script) running() NodeID {
	id := s.node()
	if !s.rig.awake(id) {
		s.mistake("%s does not run", id)
	}
	return id
}

// each calls visit with every node that is named, and needs one at least.
func (s *script) each(visit func(id NodeID)) {
	for visit(s.node()); len(s.words) > 0; {
		visit(s.node())
	}
}

// eachOrAll calls visit with every node that is named, or with all.
func (s *script) eachOrAll(visit func(id NodeID)) {
	if len(s.words) > 0 {
		s.each(visit)
		return
	}
	for _, id := range s.rig.ids {
		visit(id)
	}
}

func (s *script) time() time.Duration {
	word := s.word("a time")
	if d, err := time.ParseDuration(word); err == nil && d >= 0 {
		return d
	}
	n, err := strconv.ParseFloat(word, 64)
	if err != nil || n < 0 {
		s.mistake("%q is not a time", word)
	}
	unit := map[string]time.Duration{"timeout": wait, "timeouts": wait, "heartbeat": beat, "heartbeats": beat}[s.word("timeouts or heartbeats")]
	if unit == 0 {
		s.mistake("times are in timeouts or heartbeats")
	}
	return time.Duration(n * float64(unit))
}

const anyNode = "*"

// link reads a -> b, in which each may be * if wild is set.
func (s *script) link(wild bool) link {
	end := func() NodeID {
		if wild && s.optional(anyNode) {
			return anyNode
		}
		return s.node()
	}
	from := end()
	if !s.optional("->") {
		s.mistake("a link is written a -> b")
	}
	return link{from, end()}
}

// messages reads LINK [KIND] [#N] and takes what it means off the table.
func (s *script) messages() []*packet {
	l := s.link(true)
	kind, nth := "", 0
	if len(s.words) > 0 && !strings.HasPrefix(s.words[0], "#") {
		kind = s.word("")
		if !slices.Contains(messageKinds, kind) {
			s.mistake("%q is not a kind of message", kind)
		}
	}
	if len(s.words) > 0 {
		nth = int(s.number(strings.TrimPrefix(s.word(""), "#")))
	}
	seen := 0
	taken := s.rig.remove(func(p *packet) bool {
		if l.from != anyNode && l.from != p.from || l.to != anyNode && l.to != p.to || kind != "" && kind != packetKind(p) {
			return false
		}
		seen++
		return nth == 0 || nth == seen
	})
	if len(taken) == 0 {
		s.mistake("no such message is under way:\n%s", strings.Join(indented(s.tableLines()), "\n"))
	}
	return taken
}

// message reads what stands behind the colon.
func (s *script) message() any {
	m, err := parseMessage(s.rig, s.rest)
	if err != nil {
		s.mistake("%v", err)
	}
	s.rest = ""
	return m
}

// Writing.

func (s *script) print(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if !s.hidden["times"] {
		line = fmt.Sprintf("[%v] %s", s.rig.now.Round(time.Millisecond), line)
	}
	s.out = append(s.out, line)
}

// narrate prints what came of an advance of a node, but for what leaves it.
func (s *script) narrate(n *rigNode, happened step, w work) {
	for _, event := range happened.events {
		if e, ok := event.(restored); ok && !s.hidden["notes"] {
			s.print("%s restores %d@%d", n.id, e.id.Index, e.id.Term)
		}
	}
	for _, note := range w.notes {
		if s.hidden["notes"] {
			break
		}
		about := ""
		if note.peer != "" {
			about = ", of " + string(note.peer)
		}
		s.print("%s%s: %s -> %s", n.id, about, note.fact, note.action)
	}
	commit := n.driver.core.commitIndex
	if s.life[n.id] == n.life && s.commit[n.id] != commit && !s.hidden["commits"] {
		s.print("%s commits %d", n.id, commit)
	}
	s.life[n.id], s.commit[n.id] = n.life, commit
	if w.save != nil && w.failure == nil && !s.hidden["writes"] {
		s.print("%s writes %s", n.id, batchLine(w.save, loaded(n.storage)))
	}
	if w.failure != nil {
		s.print("%s stops: %s", n.id, wordsOf(w.failure))
	}
}

// post prints a message that leaves a node.
func (s *script) post(p *packet) {
	kind := "messages"
	if strings.HasPrefix(packetKind(p), "Heartbeat") {
		kind = "heartbeats"
	}
	if s.hidden[kind] || s.hidden["messages"] {
		return
	}
	lost := ""
	if s.rig.gone[p.link] {
		lost = " is lost"
	}
	s.print("%s%s", packetLine(p), lost)
}

// tell prints the outcome of a command.
func (s *script) tell(id NodeID, command string, o *outcome) {
	unknown, refused := errors.Is(o.err, ErrOutcomeUnknown), errors.Is(o.err, ErrNotAccepted)
	require.Equal(s.t, o.err != nil, unknown != refused, "an error is of one class: %v", o.err)
	if s.hidden["answers"] {
		return
	}
	if o.err != nil {
		s.print("%s answers %s: %s", id, shortened(command), wordsOf(o.err))
		return
	}
	s.print("%s answers %s: %s, at %d@%d", id, shortened(command), shortened(string(o.result.Response)), o.result.Index, o.result.Term)
}

// shortened abbreviates commands that are there for their size.
func shortened(command string) string {
	if len(command) <= 40 {
		return command
	}
	return fmt.Sprintf("%s... (%d bytes)", command[:10], len(command))
}

// The handlers: the cluster at the start.

func (s *script) makeNodes() {
	names := s.names(nil)
	if len(names) == 0 {
		s.mistake("a node is missing")
	}
	var joiners []string
	if s.optional("joining") {
		joiners = s.names(names)
	}
	files := s.optional("in", "files")
	s.rig = newRig(s.t, strings.Join(names, " "))
	s.rig.addJoiners(strings.Join(joiners, " "))
	s.rig.watch, s.rig.sent, s.rig.ended = s.narrate, s.post, s.tell
	clear(s.life)
	if files {
		s.rig.inFiles()
	}
}

// names reads names for nodes, up to another word of nodes, but for those taken.
func (s *script) names(taken []string) []string {
	var names []string
	for len(s.words) > 0 && s.words[0] != "joining" && s.words[0] != "in" {
		name := s.word("")
		if slices.Contains(names, name) || slices.Contains(taken, name) || !NodeID(name).valid() {
			s.mistake("%q cannot be the name of a node", name)
		}
		names = append(names, name)
	}
	return names
}

func (s *script) setLimits() {
	batch, window, chunk := 1<<20, 64, 256<<10
	for len(s.words) > 0 {
		what, n := s.word(""), int(s.number(s.word("a number")))
		switch what {
		case "batch":
			batch = n
		case "window":
			window = n
		case "cache":
			s.rig.cache = n
		case "chunk":
			chunk = n
		case "sync":
			s.rig.sync = int64(n)
		case "snapshots":
			s.rig.every = n
		case "trailing":
			s.rig.trail = n
		default:
			s.mistake("there is no limit %q", what)
		}
	}
	s.rig.tune = func(c *coreSettings) { c.maxBatchBytes, c.maxInflightMessages, c.chunkBytes = batch, window, chunk }
}

func (s *script) setSeed() { s.rig.seed = s.number(s.word("a number")) }

func (s *script) start() { s.each(s.rig.start) }

func (s *script) lead() {
	id := s.node()
	s.silently(func() {
		for _, other := range s.rig.ids {
			if !s.rig.nodes[other].joins {
				s.rig.start(other)
			}
		}
		s.rig.elect(id)
	})
}

// silently hides all lines meanwhile.
func (s *script) silently(do func()) {
	before := s.hidden
	s.hidden = map[string]bool{}
	for _, kind := range lineKinds {
		s.hidden[kind] = true
	}
	do()
	s.hidden = before
}

func (s *script) startGiven() {
	id := s.node()
	if s.rig.nodes[id].started {
		s.mistake("%s was started before", id)
	}
	state, err := parseState(s.rest)
	if err != nil {
		s.mistake("%v", err)
	}
	s.rest = ""
	s.rig.startAt(id, state)
}

// Time, and elections.

func (s *script) pass() { s.rig.pass(s.time()) }

func (s *script) skip() {
	s.rig.now += s.time()
	for _, id := range s.rig.ids {
		if s.rig.up(id) && s.rig.core(id).role != Leader {
			c := s.rig.core(id)
			c.electionDeadline = max(c.electionDeadline, s.rig.now+wait)
		}
	}
}

func (s *script) tick() { s.rig.do(s.running()) }

func (s *script) timeOut() { s.rig.timeOut(s.running()) }

func (s *script) elect() { s.rig.elect(s.running()) }

func (s *script) crown() { s.rig.crown(s.running()) }

// The network.

func (s *script) deliver() {
	taken := s.messages()
	for _, p := range taken {
		if n := s.rig.nodes[p.to]; !p.lost && (!n.started || n.frozen) {
			s.mistake("%s does not run: %s", p.to, packetLine(p))
		}
	}
	for _, p := range taken {
		s.rig.deliver(p)
	}
}

func (s *script) drop() {
	for _, p := range s.messages() {
		s.rig.lose(p)
		for _, loss := range s.rig.remove(func(q *packet) bool { return q.lost && q.link == p.link && q.request == p.request }) {
			s.rig.deliver(loss)
		}
	}
}

func (s *script) repeat() {
	for _, p := range s.messages() {
		again := *p
		s.rig.table = append(s.rig.table, p, &again)
	}
}

func (s *script) send() {
	l := s.link(false)
	s.arrive(l, l.to)
}

func (s *script) misdeliver() {
	to := s.node()
	s.arrive(s.link(false), to)
}

// arrive delivers a request on a link, or one that has left it.
func (s *script) arrive(l link, to NodeID) {
	message := s.message()
	if strings.HasSuffix(messageKind(message), "Answer") {
		s.mistake("answers are sent with reply")
	}
	if !s.rig.awake(to) {
		s.mistake("%s does not run", to)
	}
	s.rig.fillHeader(l.from, l.to, message)
	s.rig.deliver(&packet{link: link{l.from, to}, life: s.rig.nodes[l.from].life, request: message})
}

func (s *script) reply() {
	l := s.link(false)
	answer := s.message()
	kind := messageKind(answer)
	if !strings.HasSuffix(kind, "Answer") {
		s.mistake("requests are sent with send")
	}
	if s.rig.nodes[l.from].started || !s.rig.awake(l.to) {
		s.mistake("%s answers itself, or %s does not run", l.from, l.to)
	}
	for i, p := range s.rig.table {
		if p.link == (link{l.to, l.from}) && answerKind(p.request) == kind && !p.lost {
			s.rig.table = slices.Delete(s.rig.table, i, i+1)
			fillAnswer(answer, p.request, s.rig.nodes[l.from].incarnation)
			s.rig.deliver(&packet{link: l, life: p.life, request: p.request, answer: answer})
			return
		}
	}
	s.mistake("%s has asked %s nothing of the kind", l.to, l.from)
}

func (s *script) settle() { s.rig.settle() }

func (s *script) eachLink(visit func(from, to NodeID)) {
	l := s.link(true)
	for _, from := range s.rig.ids {
		for _, to := range s.rig.ids {
			if from != to && (l.from == from || l.from == anyNode) && (l.to == to || l.to == anyNode) {
				visit(from, to)
			}
		}
	}
}

func (s *script) hold()    { s.eachLink(s.rig.hold) }
func (s *script) release() { s.eachLink(s.rig.release) }
func (s *script) block()   { s.eachLink(s.rig.block) }
func (s *script) isolate() { s.rig.isolate(s.node()) }
func (s *script) heal()    { s.rig.heal() }

// Disks, state machines and processes.

func (s *script) stall() { s.each(s.rig.stall) }

func (s *script) finish() {
	id := s.running()
	if s.rig.nodes[id].saving == nil {
		s.mistake("no write of %s is under way", id)
	}
	s.rig.finishWrite(id)
}

func (s *script) resume() { s.each(func(id NodeID) { s.rig.nodes[id].stalled = false }) }

func (s *script) fail() {
	id := s.running()
	n := s.rig.nodes[id]
	if n.disk == nil || n.saving == nil {
		s.mistake("%s has no disk, or no write is under way", id)
	}
	step := s.word("write or sync")
	kind, known := map[string]vfs.OpKind{"write": vfs.OpWrite, "sync": vfs.OpSync}[step]
	if !known {
		s.mistake("%q is no step of a write", step)
	}
	n.disk.Inject(vfs.Nth(kind, 1, vfs.ErrIO))
	err := n.storage.Save(*n.saving)
	n.disk.Inject(nil)
	require.Error(s.t, err)
	n.saving = nil
	s.rig.do(id, failed{err})
}

func (s *script) delay() { s.setPace(true) }
func (s *script) hurry() { s.setPace(false) }

func (s *script) setPace(slow bool) {
	switch what := s.word("reads, commands or snapshots"); what {
	case "reads":
		s.rig.nodes[s.node()].unread = slow
	case "commands":
		s.rig.nodes[s.node()].slow = slow
	case "snapshots":
		s.rig.nodes[s.node()].snapshots.slow = slow
	default:
		s.mistake("%q cannot be delayed", what)
	}
}

func (s *script) freeze() { s.each(func(id NodeID) { s.rig.nodes[id].frozen = true }) }
func (s *script) thaw()   { s.each(func(id NodeID) { s.rig.nodes[id].frozen = false }) }

func (s *script) crash() {
	id := s.node()
	if s.optional("after", "the", "write") {
		s.rig.crashAfterWrite(id)
		return
	}
	s.rig.crash(id)
}

func (s *script) power() {
	id := s.node()
	n := s.rig.nodes[id]
	if n.disk == nil {
		s.mistake("%s has no disk", id)
	}
	operations := 0
	switch {
	case s.optional("before", "the", "write"):
		operations = 1
	case s.optional("before", "the", "sync"):
		operations = 2
	case s.optional("after", "the", "sync"):
		operations = 3
	}
	mode := s.lossMode()
	if operations > 0 {
		if n.saving == nil {
			s.mistake("no write of %s is under way", id)
		}
		n.disk.FailAfter(n.disk.Operations() + operations)
		_ = n.storage.Save(*n.saving) // which nobody hears of
	}
	n.disk = n.disk.CrashClone(mode, s.rig.seed)
	s.rig.forget(id)
}

func (s *script) restart() {
	s.each(func(id NodeID) {
		if !s.rig.nodes[id].started {
			s.mistake("%s was not started before", id)
		}
		s.rig.restart(id)
	})
}

func (s *script) wipe() {
	id := s.node()
	s.rig.wipe(id)
	s.rig.start(id)
}

// Callers.

var sizedCommand = regexp.MustCompile(`^(\w+)\*(\d+)$`)

func (s *script) propose() {
	id := s.running()
	commands := []string{}
	for len(commands) == 0 || len(s.words) > 0 {
		command := s.word("a command")
		if m := sizedCommand.FindStringSubmatch(command); m != nil {
			command = strings.Repeat(m[1], int(s.number(m[2])))
		}
		commands = append(commands, command)
	}
	s.rig.propose(id, commands...)
}

func (s *script) take() {
	s.each(func(id NodeID) {
		s.rig.wantSnapshot(id, func(index Index, err error) {
			switch {
			case s.hidden["answers"]:
			case err != nil:
				s.print("%s answers that it has no snapshot: %s", id, wordsOf(err))
			default:
				s.print("%s answers that it has a snapshot of entry %d", id, index)
			}
		})
	})
}

func (s *script) changeMembers() {
	id := s.running()
	var expected Index
	if s.optional("based", "on") {
		expected = Index(s.number(s.word("an index")))
	}
	changes := s.readChanges()
	s.rig.do(id, changeWanted{expected, changes, func(index Index, err error) {
		switch {
		case s.hidden["answers"]:
		case err != nil:
			s.print("%s answers that the members are not changed: %s", id, wordsOf(err))
		default:
			s.print("%s answers that the members are those of entry %d", id, index)
		}
	}})
}

// readChanges reads the changes behind the colon.
func (s *script) readChanges() []MemberChange {
	makes := map[string]func(NodeID) MemberChange{
		"add": s.rig.adds, "learn": s.rig.addsLearner, "promote": s.rig.promotes, "demote": s.rig.demotes, "remove": removes,
	}
	var changes []MemberChange
	for _, text := range strings.Split(s.rest, ", ") {
		s.words = append(s.words, strings.Fields(text)...)
		make, known := makes[s.word("a change")]
		if !known {
			s.mistake("%q is no change", text)
		}
		changes = append(changes, make(s.node()))
	}
	s.rest = ""
	return changes
}

func (s *script) transferLeadership() {
	id := s.running()
	var to NodeID
	if s.optional("to") {
		to = s.node()
	}
	s.rig.do(id, transferWanted{to, func(_ Index, err error) {
		switch {
		case s.hidden["answers"]:
		case err != nil:
			s.print("%s answers that it did not hand over: %s", id, wordsOf(err))
		default:
			s.print("%s answers that %s leads", id, s.rig.core(id).leader)
		}
	}})
}

// Looking.

func (s *script) members() {
	s.eachOrAll(func(id NodeID) {
		if !s.rig.up(id) {
			return
		}
		c := s.rig.core(id)
		line := membersLine(c.configuration)
		if len(c.earlier) > 0 || c.configuration.index > 1 {
			line += fmt.Sprintf(", since entry %d", c.configuration.index)
		}
		for _, before := range slices.Backward(c.earlier) {
			line += fmt.Sprintf("; since %d %s", before.index, membersLine(before))
		}
		s.print("%s: %s", id, line)
	})
}

var lineKinds = []string{"notes", "commits", "writes", "messages", "heartbeats", "answers", "times"}

func (s *script) show() { s.setHidden(false) }
func (s *script) hide() { s.setHidden(true) }

func (s *script) setHidden(hidden bool) {
	for kind := s.word("a kind of lines"); ; kind = s.word("") {
		if !slices.Contains(lineKinds, kind) {
			s.mistake("there are no lines of the kind %q", kind)
		}
		s.hidden[kind] = hidden
		if len(s.words) == 0 {
			return
		}
	}
}

func (s *script) state() {
	s.eachOrAll(func(id NodeID) {
		if s.rig.nodes[id].started || s.rig.up(id) {
			s.print("%s", stateLine(s.rig, id))
		}
	})
}

func (s *script) disk() {
	s.each(func(id NodeID) {
		n := s.rig.nodes[id]
		if n.disk != nil && n.driver == nil {
			s.mistake("%s must run for its files to be read", id)
		}
		s.print("%s", diskLine(n))
	})
}

func (s *script) peers() {
	for _, p := range s.rig.nodes[s.running()].driver.status(s.rig.now).Peers {
		s.print("%s", peerLine(p))
	}
}

func (s *script) table() {
	for _, line := range s.tableLines() {
		s.print("%s", line)
	}
}

func (s *script) tableLines() []string {
	var lines []string
	for _, p := range s.rig.table {
		lines = append(lines, packetLine(p))
	}
	return lines
}

func (s *script) applied() {
	s.eachOrAll(func(id NodeID) {
		if s.rig.up(id) {
			s.print("%s: %s", id, appliedLine(s.rig.nodes[id].machine))
		}
	})
}

func (s *script) why() {
	id := s.running()
	s.print("%s: %s", id, orNothing(s.rig.reason(id)))
}

func (s *script) healthy() {
	s.silently(s.rig.requireHealthy)
	leader := s.rig.leader()
	s.print("%s leads in term %d, and all members are equal", leader, s.rig.core(leader).currentTerm)
}

// lineDiff returns how two outputs differ, with all lines that are the same.
func lineDiff(before, now []string) string {
	if slices.Equal(before, now) {
		return ""
	}
	// common[i][j]: how many lines before[i:] and now[j:] have in common.
	common := make([][]int, len(before)+1)
	for i := range common {
		common[i] = make([]int, len(now)+1)
	}
	for i := len(before) - 1; i >= 0; i-- {
		for j := len(now) - 1; j >= 0; j-- {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); before[i] == now[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var lines []string
	for i, j := 0, 0; i < len(before) || j < len(now); {
		switch {
		case i < len(before) && j < len(now) && before[i] == now[j]:
			lines = append(lines, "    "+before[i])
			i, j = i+1, j+1
		case j == len(now) || i < len(before) && common[i+1][j] >= common[i][j+1]:
			lines = append(lines, "  - "+before[i])
			i++
		default:
			lines = append(lines, "  + "+now[j])
			j++
		}
	}
	return strings.Join(lines, "\n")
}
