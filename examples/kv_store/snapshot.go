package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"

	"github.com/seed-8da499c8/raft"
)

// Nothing is copied for a snapshot. While a view is open the map that it was taken
// of stays as it is, so that another goroutine can write it out, and what commands
// change goes into a second map, which is looked at first. Once the view is closed
// the changes are merged. So to take a view costs the same however large the store
// is, memory is needed for what changes until it is written, and merging that takes
// as long as if the commands came once more.

// view is the store as it was when the view was taken.
type view struct {
	values map[string][]byte
	index  raft.Index // of the last command that the values are due to
	closed atomic.Bool
}

// CaptureSnapshot returns a view of the store as it is now. raft has one open at a
// time.
func (s *store) CaptureSnapshot() (raft.SnapshotView, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.merge()
	if s.view != nil {
		return nil, errors.New("another view of the store is open")
	}
	s.view = &view{values: s.values, index: s.index}
	s.changes = map[string][]byte{}
	return s.view, nil
}

// merge lets the changes take effect if the view is closed.
func (s *store) merge() {
	if s.view == nil || !s.view.closed.Load() {
		return
	}
	changes := s.changes
	s.view, s.changes = nil, nil
	for key, value := range changes {
		s.put(key, value)
	}
}

// get returns the present value of a key.
func (s *store) get(key string) (value []byte, exists bool) {
	if value, changed := s.changes[key]; changed {
		return value, value != nil
	}
	value, exists = s.values[key]
	return value, exists
}

// put sets the value of a key, or deletes it if the value is nil.
func (s *store) put(key string, value []byte) {
	switch {
	case s.view != nil:
		s.changes[key] = value
	case value == nil:
		delete(s.values, key)
	default:
		s.values[key] = value
	}
}

// WriteTo writes the index, and the values as a MessagePack map of byte strings. It runs
// while commands are being applied. The order of the keys is any: no two snapshots of
// equal stores need to be equal.
func (v *view) WriteTo(ctx context.Context, w io.Writer) error {
	buffered := bufio.NewWriterSize(w, 64<<10)
	e := msgpack.NewEncoder(buffered)
	if err := errors.Join(e.EncodeUint(uint64(v.index)), e.EncodeMapLen(len(v.values))); err != nil {
		return err
	}
	var keyBytes []byte
	for key, value := range v.values {
		keyBytes = append(keyBytes[:0], key...)
		if err := errors.Join(ctx.Err(), e.EncodeBytes(keyBytes), e.EncodeBytes(value)); err != nil {
			return err
		}
	}
	return buffered.Flush()
}

// Close lets the store change what the view was taken of.
func (v *view) Close() error {
	v.closed.Store(true)
	return nil
}

// RestoreFrom replaces the whole store, or leaves it as it is and returns an error.
func (s *store) RestoreFrom(ctx context.Context, r io.Reader) error {
	values, index, err := readSnapshot(ctx, newDecoder(bufio.NewReaderSize(r, 64<<10)))
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values, s.index, s.changes, s.view = values, index, nil, nil // a view that is open has the old map
	return nil
}

// readSnapshot reads what WriteTo has written. Snapshots without an index were written
// by earlier versions.
func readSnapshot(ctx context.Context, d decoder) (values map[string][]byte, index raft.Index, err error) {
	code, err := d.PeekCode()
	if err == nil && !isMap(code) {
		var n uint64
		n, err = d.DecodeUint64()
		index = raft.Index(n)
	}
	if err == nil {
		values, err = readValues(ctx, d)
	}
	return values, index, err
}

func isMap(code byte) bool {
	return msgpcode.IsFixedMap(code) || code == msgpcode.Map16 || code == msgpcode.Map32
}

// readValues reads the map. The number of keys is not believed: it grows as they come.
func readValues(ctx context.Context, d decoder) (map[string][]byte, error) {
	n, err := d.DecodeMapLen()
	if err != nil {
		return nil, err
	}
	if n < 0 {
		return nil, errors.New("nil is no map")
	}
	values := make(map[string][]byte, min(n, 1<<16))
	var key []byte
	for range n {
		if key, err = d.bytes(key[:0]); err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		if values[string(key)], err = d.bytes(nil); err != nil {
			return nil, fmt.Errorf("value of %q: %w", key, err)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	if len(values) != n {
		return nil, errors.New("a key occurs twice")
	}
	return values, d.end()
}

// Snapshot and Restore belong to every state machine. raft calls the methods above
// instead where they are there.

// Snapshot returns the whole store.
func (s *store) Snapshot() ([]byte, error) {
	v, err := s.CaptureSnapshot()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = v.WriteTo(context.Background(), &b)
	return b.Bytes(), errors.Join(err, v.Close())
}

// Restore replaces the whole store.
func (s *store) Restore(snapshot []byte) error {
	return s.RestoreFrom(context.Background(), bytes.NewReader(snapshot))
}
