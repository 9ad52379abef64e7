//go:build unix

package raft

import (
	"net"
	"syscall"
)

// directWriter writes to a socket as much as that takes without waiting: any goroutine may
// do that, also one that must never wait. Only one at a time uses it.
type directWriter struct {
	socket syscall.RawConn
	write  func(fd uintptr) bool // made once: it is on the hot path
	piece  []byte
	n      int
	err    error
}

// newDirectWriter returns nil if a connection cannot be written so, as under TLS. One that
// embeds a socket may have a Write of its own, which must not be passed by.
func newDirectWriter(conn net.Conn) *directWriter {
	var c syscall.Conn
	switch s := conn.(type) {
	case *net.TCPConn:
		c = s
	case *net.UnixConn:
		c = s
	default:
		return nil
	}
	socket, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	w := &directWriter{socket: socket}
	w.write = func(fd uintptr) bool {
		for {
			w.n, w.err = syscall.Write(int(fd), w.piece)
			if w.err != syscall.EINTR {
				return true // whatever has come of it: false would wait
			}
		}
	}
	return w
}

// tryWrite returns how much of piece was written. Less than all of it is no error.
func (w *directWriter) tryWrite(piece []byte) (int, error) {
	w.piece = piece
	err := w.socket.Write(w.write)
	w.piece = nil
	switch {
	case err != nil:
		return 0, err
	case w.err == syscall.EAGAIN:
		return 0, nil
	case w.err != nil:
		return 0, w.err
	default:
		return w.n, nil
	}
}
