package raft

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-8da499c8/raft/internal/crc32c"
	"github.com/seed-8da499c8/raft/internal/vfs"
	"github.com/seed-8da499c8/raft/internal/wal"
	"github.com/seed-8da499c8/raft/internal/wire"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// summedRun is a run of so many entries with some bytes each.
func summedRun(r *rand.Rand, term Term, first Index, count, size int) run {
	made := run{term: term, first: first, count: count}
	for range count {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		made.body = appendEntry(made.body, EntryCommand, data)
	}
	return made
}

// framed is what a frame writer makes of a message, behind another one.
func framed(t *testing.T, w *frameWriter, m *AppendEntries) []byte {
	t.Helper()
	require.NoError(t, w.encode(&outgoing{kind: kindAlive}))
	require.NoError(t, w.encode(&outgoing{kind: kindStreamedAppend, id: 1 << 40, body: m}))
	w.gather()
	return bytes.Join(w.pieces, nil)
}

// arrived is what the peer makes of a message. Its frame is the same whether large bodies
// were copied for it or are written from where they are.
func arrived(t *testing.T, m *AppendEntries) *AppendEntries {
	t.Helper()
	data := framed(t, new(frameWriter), m)
	w := &frameWriter{mayWait: true, socket: true}
	require.True(t, bytes.Equal(data, framed(t, w, m)), "the frame has other bytes")
	part := m.Entries.part()
	require.Equal(t, part.Size > 0 && part.Size >= apartBytes*len(m.Entries.runs), len(w.apart) > 0)
	if len(w.apart) > 0 {
		require.Same(t, &m.Entries.runs[0].body[0], &w.pieces[1][0], "it was copied")
	}
	r := bufio.NewReader(bytes.NewReader(data))
	_, _, err := wire.ReadFrame(r, &wire.Gate{})
	require.NoError(t, err)
	f := new(frame)
	f.body, f.sum, err = wire.ReadFrame(r, &wire.Gate{})
	require.NoError(t, err, "the frame has a wrong checksum")
	_, _, f.message, err = wire.ParseBody(f.body)
	require.NoError(t, err)
	read := new(AppendEntries)
	require.NoError(t, read.unmarshalFrame(f))
	return read
}

// However entries were batched, frames with them have the right checksum, and who receives
// them knows that of the entries without reading them again: a log with another one could
// not be opened any more.
func TestChecksumsOfEntriesAreShared(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		m := &AppendEntries{
			Header: Header{From: NodeID(bytes.Repeat([]byte("a"), 1+r.IntN(60))), To: "b"}, Term: 9,
			PrevLogIndex: Index(r.Uint64N(1 << (1 + r.IntN(60)))), PrevLogTerm: 1, LeaderCommit: Index(r.Uint64()),
			LeaderAddress: string(bytes.Repeat([]byte("x"), r.IntN(200))),
		}
		next, terms := m.PrevLogIndex+1, r.IntN(8) == 0
		for i := range 1 + r.IntN(4) {
			term, size := Term(3), r.IntN(8000)
			if terms {
				term += Term(i)
			}
			if round == 0 {
				size = 300_000 // such a frame is not read in one piece
			}
			made := summedRun(r, term, next, 1+r.IntN(20), size)
			if r.IntN(3) > 0 {
				made = made.summed()
			}
			m.Entries.runs, next = append(m.Entries.runs, made), made.last()+1
		}
		read := arrived(t, m)
		require.Equal(t, m.Entries.Len(), read.Entries.Len())
		require.Equal(t, m.Entries.Size(), read.Entries.Size())
		for _, got := range read.Entries.runs {
			shared := len(read.Entries.runs) == 1 && len(got.body) >= summedBytes
			require.Equal(t, shared, got.known, "round %d: %d bytes", round, len(got.body))
			if got.known {
				require.Equal(t, crc32c.Checksum(got.body), got.sum, "round %d: %d bytes", round, len(got.body))
			}
		}
	}
}

// Fields that a later release adds to messages and frames are no part of the entries.
func TestChecksumsWithFieldsOfALaterRelease(t *testing.T) {
	t.Parallel()
	sent := &AppendEntries{Header: Header{From: "a", To: "b"}, Term: 1, PrevLogIndex: 7, Entries: Entries{[]run{summedRun(rand.New(rand.NewPCG(3, 4)), 1, 8, 3, 20_000)}}}
	message, err := sent.AppendBinary(nil)
	require.NoError(t, err)
	require.Equal(t, byte(0x9b), message[0], "an array of eleven")
	message[0]++
	message = wire.AppendString(message, "more in the message")

	body := wire.AppendArrayLen(make([]byte, 0, 1<<20), 4)
	body = append(wire.AppendUint(wire.AppendUint(body, kindStreamedAppend), 1), message...)
	body = wire.AppendString(body, "more in the frame")
	f := &frame{body: body, sum: crc32c.Checksum(body)}
	_, _, f.message, err = wire.ParseBody(body)
	require.NoError(t, err)
	require.Len(t, f.message, len(message))
	read := new(AppendEntries)
	require.NoError(t, read.unmarshalFrame(f))
	got := read.Entries.runs[0]
	assert.True(t, got.known)
	assert.Equal(t, crc32c.Checksum(sent.Entries.runs[0].body), got.sum)
}

// A part of a run has another checksum than all of it.
func TestPartsOfRunsHaveNoChecksum(t *testing.T) {
	whole := summedRun(rand.New(rand.NewPCG(5, 6)), 1, 1, 10, 10_000).summed()
	require.True(t, whole.known)
	log := newLog(StorageState{})
	log.appendRun(whole)
	for from := Index(1); from <= 10; from++ {
		for _, got := range log.from(from, 35_000).runs {
			assert.False(t, got.known, fmt.Sprint(from))
		}
	}
	assert.Equal(t, whole, log.from(1, 1<<20).runs[0])
	assert.False(t, Entries{log.runs}.upTo(9).runs[0].known)
}

// What a member has on its disk can be read after a restart, whoever has computed the
// checksums.
func TestLargeCommandsSurviveARestart(t *testing.T) {
	t.Parallel()
	dir := filepath.ToSlash(t.TempDir())
	storage, err := openDiskStorage(vfs.OS(), dir, wal.Options{SegmentBytes: 1 << 20})
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(7, 8))
	own := Entries{[]run{summedRun(r, 1, 1, 3, 50_000).summed(), summedRun(r, 1, 4, 1, 100)}}
	require.NoError(t, storage.Save(SaveBatch{Entries: own}))
	read := arrived(t, &AppendEntries{Header: Header{From: "a", To: "b"}, Term: 1, PrevLogIndex: 4, PrevLogTerm: 1, Entries: Entries{[]run{summedRun(r, 1, 5, 3, 50_000)}}})
	require.True(t, read.Entries.runs[0].known)
	require.NoError(t, storage.Save(SaveBatch{Entries: read.Entries}))
	require.NoError(t, storage.Close())

	storage, err = openDiskStorage(vfs.OS(), dir, wal.Options{SegmentBytes: 1 << 20})
	require.NoError(t, err)
	entries, err := storage.Entries(1, 7, 1<<20)
	require.NoError(t, err)
	require.Equal(t, slices.Concat(slices.Collect(own.All()), slices.Collect(read.Entries.All())), slices.Collect(entries.All()))
	require.NoError(t, storage.Close())
}

// summedStorage counts the runs with many bytes that were saved with and without a checksum.
type summedStorage struct {
	*diskStorage
	summed, others atomic.Int64
}

func (s *summedStorage) Save(batch SaveBatch) error {
	for _, r := range batch.Entries.runs {
		switch {
		case r.known:
			s.summed.Add(1)
		case len(r.body) >= summedBytes:
			s.others.Add(1)
		}
	}
	return s.diskStorage.Save(batch)
}

// Large commands are committed over TCP, and what all members have on their disks can be
// read again. No member computes a checksum when it writes them.
func TestLargeCommandsOverTCPAreOnAllDisks(t *testing.T) {
	t.Parallel()
	root := filepath.ToSlash(t.TempDir())
	open := func(id NodeID) *diskStorage {
		s, err := openDiskStorage(vfs.OS(), root+"/"+string(id), wal.Options{SegmentBytes: 1 << 20})
		require.NoError(t, err)
		return s
	}
	storages := map[NodeID]*summedStorage{}
	peers, newTransport := loopbackPeers(t)
	testClusterWith(t, peers, newTransport, 40_000, func(id NodeID) Storage {
		storages[id] = &summedStorage{diskStorage: open(id)}
		return storages[id]
	})
	logs := map[NodeID][]LogEntry{}
	var whole []LogEntry
	for id, s := range storages {
		assert.LessOrEqual(t, s.others.Load(), int64(1), "%s: but for what came with another term's", id)
		require.NoError(t, s.Close())
		opened := open(id)
		state, err := opened.Load()
		require.NoError(t, err)
		entries, err := opened.Entries(1, min(22, state.Last), 64<<20)
		require.NoError(t, err)
		logs[id] = slices.Collect(entries.All())
		require.NoError(t, opened.Close())
		if len(logs[id]) == 22 {
			assert.GreaterOrEqual(t, s.summed.Load(), int64(19), id)
			whole = logs[id]
		}
	}
	require.NotNil(t, whole, "no disk has all entries")
	shorter := 0
	for id, log := range logs {
		require.Equal(t, whole[:len(log)], log, id)
		if len(log) < len(whole) {
			shorter++
		}
	}
	require.LessOrEqual(t, shorter, 1, "the leader may have been stopped before its own disk had what the others had committed")
}

// slowSocket takes some bytes before each deadline.
type slowSocket struct {
	net.Conn
	takes int
	room  int // before the deadline that is set
	taken []byte
}

func (s *slowSocket) SetWriteDeadline(time.Time) error {
	s.room = s.takes
	return nil
}

func (s *slowSocket) Write(data []byte) (int, error) {
	n := min(len(data), s.room)
	s.room -= n
	s.taken = append(s.taken, data[:n]...)
	if n < len(data) {
		return n, os.ErrDeadlineExceeded
	}
	return n, nil
}

// A large frame passes a slow link, as long as the peer takes 64 KiB before each deadline.
func TestLargeFrameOverASlowLink(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(9, 10))
	m := &AppendEntries{Header: Header{From: "a", To: "b"}, Term: 1, Entries: Entries{[]run{
		summedRun(r, 1, 1, 3, 100_000).summed(), summedRun(r, 1, 4, 2, 100), summedRun(r, 1, 6, 1, 50_000).summed(),
	}}}
	for _, takes := range []int{writePiece, 100_000, writePiece - 1, 0} {
		slow := &slowSocket{takes: takes}
		w := &frameWriter{conn: &tcpConn{transport: &TCPTransport{timeout: time.Second}, socket: slow}, socket: true, mayWait: true}
		want := framed(t, w, m)
		require.NotEmpty(t, w.apart)
		w.flush()
		if takes < writePiece {
			require.ErrorContains(t, w.err, "took nothing")
			continue
		}
		require.NoError(t, w.err)
		require.True(t, bytes.Equal(want, slow.taken))
		require.EqualValues(t, len(want), w.conn.transport.stats.bytesSent.Load())
		require.Empty(t, w.apart)
		require.Empty(t, w.buffer)
	}
}

// So does one with more pieces than a system call takes, of which a socket takes parts: it has
// room for a hundredth of the frame.
func TestLargeFramesTakeManyWrites(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	got := make(chan []byte, 1)
	go func() {
		defer close(got)
		socket, err := listener.Accept()
		if err != nil {
			return
		}
		defer socket.Close()
		all, _ := io.ReadAll(socket)
		got <- all
	}()
	socket, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	defer socket.Close()
	require.NoError(t, socket.(*net.TCPConn).SetWriteBuffer(64<<10))
	w := &frameWriter{conn: &tcpConn{transport: &TCPTransport{timeout: 10 * time.Second}, socket: socket}, socket: true, mayWait: true}
	r := rand.New(rand.NewPCG(13, 14))
	var want []byte
	for _, runs := range []int{1500, 20} {
		m := &AppendEntries{Header: Header{From: "a", To: "b"}, Term: 1}
		m.Entries.runs = []run{summedRun(r, 1, 1, 1, summedBytes).summed()}
		for i := range Index(runs) {
			m.Entries.runs = append(m.Entries.runs, summedRun(r, 1, i+2, 1, 9_000_000/runs).summed())
		}
		want = append(want, framed(t, w, m)...)
		require.Len(t, w.apart, 1)
		require.Greater(t, len(w.pieces), runs)
		w.flush()
		require.NoError(t, w.err)
	}
	require.NoError(t, socket.Close())
	require.True(t, bytes.Equal(want, awaitValue(t, got, "all bytes")))
}

// Entries come as they were sent, in order: over sockets, where large bodies are written from
// where they are but with race detection, small ones are copied, and under TLS, where all are.
func TestTCPBodiesWrittenFromWhereTheyAre(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]TCPOption{"plain": nil, "TLS": {WithTLS(testCertificate(t))}} {
		t.Run(name, func(t *testing.T) {
			a, b := startTCPPair(t, 5*time.Second, options...)
			received := make(chan *AppendEntries, 100)
			b.handler.begin = func(m *AppendEntries, respond func(*AppendResponse, error)) {
				received <- m
				respond(&AppendResponse{Success: true}, nil)
			}
			stream, _ := openTestStream(a.transportNode, b.id)
			defer stream.Close()
			r := rand.New(rand.NewPCG(11, 12))
			var sent []*AppendEntries
			for i := range Index(30) {
				m := &AppendEntries{Header: a.headerTo(b.transportNode), Term: 3, PrevLogIndex: 2 * i, PrevLogTerm: 3, Entries: Entries{[]run{
					summedRun(r, 3, 2*i+1, 1, r.IntN(200_000)).summed(), summedRun(r, 3, 2*i+2, 1, r.IntN(100)).summed(),
				}}}
				sent = append(sent, m)
				require.True(t, stream.Send(m))
			}
			for _, m := range sent {
				got := awaitValue(t, received, "an append")
				require.Equal(t, m.PrevLogIndex, got.PrevLogIndex)
				want, _ := m.Entries.AppendBinary(nil)
				have, _ := got.Entries.AppendBinary(nil)
				require.True(t, bytes.Equal(want, have))
			}
			link, err := a.tcp.link(b.id, wire.PurposeBulk)
			require.NoError(t, err)
			c, err := link.connection(t.Context())
			require.NoError(t, err)
			require.Equal(t, name == "plain" && !raceDetection, c.frames.socket)
		})
	}
}
