package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// The limit is a replicated log with nothing of Raft in it: no terms, no elections, no
// comparing of logs, no catching up. Node 0 leads. Its disk and its senders to the two
// others each take whatever was appended since they last looked; all three write it to
// a file and sync; an entry is done when two of three have it on their disks and the
// leader has applied it. It is what the machine can do, and no library.

// A connection begins with a byte that says what it is for.
const (
	limitEntries = 'e' // to a follower, and acknowledgements back
	limitPings   = 'p' // to anybody, and the same back
)

// limitLeader is node 0.
type limitLeader struct {
	queue   *limitQueue
	log     *limitLog
	durable [3]atomic.Uint64 // up to which index each node has the log on its disk
	machine *machine
	reads   *limitReads
	ends    limitEnds
	group   sync.WaitGroup
}

// limitEnds is what a node of the limit has to close.
type limitEnds struct {
	listener net.Listener
	mu       sync.Mutex
	conns    []net.Conn
}

func (e *limitEnds) add(conn net.Conn) net.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conns = append(e.conns, conn)
	return conn
}

func (e *limitEnds) close() {
	e.listener.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, conn := range e.conns {
		conn.Close()
	}
}

// dial connects for a purpose, once the other node listens.
func (e *limitEnds) dial(address string, purpose byte) (net.Conn, error) {
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_, err = e.add(conn).Write([]byte{purpose})
			return conn, err
		}
		if time.Since(began) > 30*time.Second {
			return nil, err
		}
	}
}

// serve accepts connections, and has entries handled by a function.
func (e *limitEnds) serve(entries func(net.Conn)) {
	for {
		conn, err := e.listener.Accept()
		if err != nil {
			return
		}
		e.add(conn)
		go func() {
			var purpose [1]byte
			if _, err := io.ReadFull(conn, purpose[:]); err != nil {
				return
			}
			if purpose[0] == limitPings {
				_, _ = io.Copy(conn, conn)
				return
			}
			entries(conn)
		}()
	}
}

func openLimit(o options) (node, error) {
	log, err := openLimitLog(o.Dir)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", o.Addresses[o.Node])
	if err != nil {
		return nil, err
	}
	if o.Node > 0 {
		return openLimitFollower(o, log, listener)
	}
	return openLimitLeader(o, log, listener)
}

func openLimitLeader(o options, log *limitLog, listener net.Listener) (node, error) {
	l := &limitLeader{queue: newLimitQueue(o.Bytes), log: log, machine: new(machine)}
	l.ends.listener = listener
	go l.ends.serve(func(net.Conn) {})
	var pings []net.Conn
	for i := 1; i <= 2; i++ {
		conn, err := l.ends.dial(o.Addresses[i], limitEntries)
		if err != nil {
			return nil, err
		}
		ping, err := l.ends.dial(o.Addresses[i], limitPings)
		if err != nil {
			return nil, err
		}
		pings = append(pings, ping)
		l.group.Go(func() { l.send(i, conn) })
		go l.acknowledge(i, conn)
	}
	l.reads = newLimitReads(pings)
	l.group.Go(l.write)
	l.group.Go(l.apply)
	return l, nil
}

// write is the leader's disk.
func (l *limitLeader) write() {
	r := &l.queue.readers[readForDisk]
	var pieces [][]byte
	for {
		taken, index, ok := r.take(pieces[:0])
		if !ok {
			return
		}
		pieces = taken
		if err := l.log.append(pieces); err != nil {
			panic(err)
		}
		l.durable[0].Store(index)
		l.queue.readers[readToApply].kick()
		r.release()
	}
}

// send sends the log to a follower.
func (l *limitLeader) send(i int, conn net.Conn) {
	r := &l.queue.readers[i]
	var pieces, buffers [][]byte
	for {
		taken, _, ok := r.take(pieces[:0])
		if !ok {
			return
		}
		pieces = taken
		buffers = append(buffers[:0], pieces...) // WriteTo consumes them
		consumed := net.Buffers(buffers)
		if _, err := consumed.WriteTo(conn); err != nil {
			return
		}
		r.release()
	}
}

// acknowledge reads what a follower says it has on its disk.
func (l *limitLeader) acknowledge(i int, conn net.Conn) {
	_ = eachNumber(conn, func(index uint64) {
		l.durable[i].Store(index)
		l.queue.readers[readToApply].kick()
	})
}

// eachNumber reads numbers, and calls a function with the last one that has come.
func eachNumber(conn net.Conn, last func(uint64)) error {
	buffer := make([]byte, 4096)
	have := 0
	for {
		n, err := conn.Read(buffer[have:])
		if err != nil {
			return err
		}
		have += n
		if whole := have / 8 * 8; whole > 0 {
			last(binary.LittleEndian.Uint64(buffer[whole-8:]))
			have = copy(buffer, buffer[whole:have])
		}
	}
}

// committed is the index that two of three have on their disks.
func (l *limitLeader) committed() uint64 {
	a, b, c := l.durable[0].Load(), l.durable[1].Load(), l.durable[2].Load()
	return max(min(a, b), min(max(a, b), c))
}

// apply applies what is committed, and tells those who wait.
func (l *limitLeader) apply() {
	r := &l.queue.readers[readToApply]
	for done := uint64(0); ; {
		commit := l.committed()
		if commit == done {
			r.idle.Store(true)
			if l.committed() == done {
				select {
				case <-r.wake:
				case <-l.queue.closed:
					return
				}
			}
			r.idle.Store(false)
			continue
		}
		for _, w := range l.queue.popWaiting(int(commit - done)) {
			l.machine.apply(r.next())
			w.done <- struct{}{}
		}
		done = commit
		r.release()
	}
}

func (l *limitLeader) Leads() bool { return true }

func (l *limitLeader) Propose(_ context.Context, command []byte) error {
	return l.queue.append(command).Wait()
}

func (l *limitLeader) ProposeAsync(command []byte) (future, error) {
	return l.queue.append(command), nil
}

func (l *limitLeader) ReadIndex(context.Context) error { return l.reads.read() }

func (l *limitLeader) State() state { return l.machine.state() }

func (l *limitLeader) Close() error {
	close(l.queue.closed)
	l.reads.close()
	l.group.Wait()
	l.ends.close()
	return l.log.file.Close()
}

// limitFollower is node 1 or 2.
type limitFollower struct {
	log     *limitLog
	machine *machine
	reads   *limitReads
	ends    limitEnds
	ended   chan struct{} // whoever writes to the log
}

func openLimitFollower(o options, log *limitLog, listener net.Listener) (node, error) {
	f := &limitFollower{log: log, machine: new(machine), ended: make(chan struct{})}
	f.ends.listener = listener
	go f.ends.serve(f.follow)
	ping, err := f.ends.dial(o.Addresses[0], limitPings)
	if err != nil {
		return nil, err
	}
	f.reads = newLimitReads([]net.Conn{ping})
	return f, nil
}

// follow writes and syncs whatever has come, applies it at once, and says how far it is.
func (f *limitFollower) follow(conn net.Conn) {
	defer close(f.ended)
	in := receiveLimit(conn)
	var entries limitParser
	var acknowledged uint64
	var acknowledgement [8]byte
	for {
		pieces, ok := in.take()
		if !ok {
			return
		}
		if err := f.log.append(pieces); err != nil {
			panic(err)
		}
		for _, piece := range pieces {
			entries.parse(piece)
		}
		f.machine.set(state{entries.commands, entries.checksum})
		in.release()
		if entries.last > acknowledged {
			acknowledged = entries.last
			binary.LittleEndian.PutUint64(acknowledgement[:], acknowledged)
			if _, err := conn.Write(acknowledgement[:]); err != nil {
				return
			}
		}
	}
}

var errLimit = errors.New("the limit has one leader")

func (f *limitFollower) Leads() bool                           { return false }
func (f *limitFollower) Propose(context.Context, []byte) error { return errLimit }
func (f *limitFollower) ProposeAsync([]byte) (future, error)   { return nil, errLimit }
func (f *limitFollower) ReadIndex(context.Context) error       { return f.reads.read() }
func (f *limitFollower) State() state                          { return f.machine.state() }

func (f *limitFollower) Close() error {
	f.reads.close()
	f.ends.close()
	<-f.ended
	return f.log.file.Close()
}
