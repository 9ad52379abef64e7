package main

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// send leaves messages with the senders to those they are for.
func (n *etcdNode) send(messages ...*raftpb.Message) {
	for _, m := range messages {
		if to := m.GetTo(); to < uint64(len(n.senders)) && n.senders[to] != nil {
			n.senders[to].queue.put(m)
		}
	}
}

// etcdSender sends to one node, over a connection of its own: 4 bytes of length, then the
// message. What cannot be sent is dropped, as Raft allows.
type etcdSender struct {
	node    *etcdNode
	to      uint64
	address string
	queue   *etcdQueue
	conn    net.Conn
	dialled time.Time
	buffer  []byte
}

func (s *etcdSender) run() {
	for {
		messages := s.queue.get(s.node.stop)
		if messages == nil {
			break
		}
		s.dial()
		sent := s.write(messages)
		if !sent {
			s.node.deliver(&raftpb.Message{Type: raftpb.MsgUnreachable.Enum(), From: new(s.to), To: new(s.node.id)})
		}
		for _, m := range messages {
			if m.GetType() == raftpb.MsgSnap {
				s.node.deliver(&raftpb.Message{Type: raftpb.MsgSnapStatus.Enum(), From: new(s.to), To: new(s.node.id), Reject: new(!sent)})
			}
		}
	}
	if s.conn != nil {
		s.conn.Close()
	}
}

// dial connects if need be, and not all the time.
func (s *etcdSender) dial() {
	if s.conn == nil && time.Since(s.dialled) > 10*time.Millisecond {
		s.dialled = time.Now()
		if conn, err := net.DialTimeout("tcp", s.address, 100*time.Millisecond); err == nil {
			s.conn = conn
		}
	}
}

// write writes messages, about 1 MiB at once.
func (s *etcdSender) write(messages []*raftpb.Message) bool {
	if s.conn == nil {
		return false
	}
	for i := 0; i < len(messages); {
		s.buffer = s.buffer[:0]
		for ; i < len(messages) && len(s.buffer) < 1<<20; i++ {
			s.encode(messages[i])
		}
		if _, err := s.conn.Write(s.buffer); err != nil {
			s.conn.Close()
			s.conn = nil
			return false
		}
	}
	return true
}

func (s *etcdSender) encode(m *raftpb.Message) {
	at := len(s.buffer)
	encoded, err := proto.MarshalOptions{}.MarshalAppend(append(s.buffer, 0, 0, 0, 0), m)
	must(err)
	binary.LittleEndian.PutUint32(encoded[at:], uint32(len(encoded)-at-4))
	s.buffer = encoded
}

// etcdConns is the connections that others have made.
type etcdConns struct {
	mu     sync.Mutex
	conns  []net.Conn
	closed bool
}

func (c *etcdConns) add(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
	}
	c.conns = append(c.conns, conn)
}

func (c *etcdConns) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, conn := range c.conns {
		conn.Close()
	}
}

func (n *etcdNode) accept() {
	for {
		conn, err := n.listener.Accept()
		if err != nil {
			return
		}
		n.conns.add(conn)
		go n.receive(conn)
	}
}

// receive delivers messages, up to 64 that have arrived together at once.
func (n *etcdNode) receive(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 1<<20)
	var body []byte
	var messages []*raftpb.Message
	for {
		var m *raftpb.Message
		var err error
		if m, body, err = readMessage(r, body); err != nil {
			return
		}
		messages = append(messages, m)
		if len(messages) < 64 && hasMessage(r) {
			continue
		}
		n.deliver(messages...)
		messages = messages[:0]
	}
}

// readMessage reads one into a buffer that it may replace.
func readMessage(r *bufio.Reader, body []byte) (*raftpb.Message, []byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, body, err
	}
	size := int(binary.LittleEndian.Uint32(length[:]))
	if cap(body) < size {
		body = make([]byte, size)
	}
	body = body[:size]
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, body, err
	}
	m := new(raftpb.Message)
	return m, body, proto.Unmarshal(body, m)
}

// hasMessage reports whether a whole one can be read without waiting.
func hasMessage(r *bufio.Reader) bool {
	if r.Buffered() < 4 {
		return false
	}
	length, _ := r.Peek(4)
	return r.Buffered() >= 4+int(binary.LittleEndian.Uint32(length))
}
