package snapshot

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// TestReadersBesideWriterAndReceiver: whoever has opened a snapshot reads all of it,
// while others are taken, received and removed.
func TestReadersBesideWriterAndReceiver(t *testing.T) {
	for name, fs := range map[string]vfs.FS{"memory": vfs.NewMemory(), "os": unsynced{vfs.OS()}} {
		t.Run(name, func(t *testing.T) {
			rounds := uint64(100)
			if testenv.Brief() {
				rounds = 30
			}
			s, err := openClean(fs, filepath.ToSlash(t.TempDir()), small(1))
			require.NoError(t, err)
			mustTake(t, s, at(1))
			var files []sent
			for i := range rounds {
				files = append(files, source(t, at(10*i+15), 1))
			}
			var makers, readers sync.WaitGroup
			var done atomic.Bool
			var reads atomic.Int64
			for range 3 {
				readers.Go(func() {
					for !done.Load() || reads.Load() < 50 {
						if err := readAll(s); err != nil {
							t.Error(err)
							return
						}
						reads.Add(1)
					}
				})
			}
			makers.Go(func() {
				for i := range rounds {
					if _, err := take(s, at(10*i+10), true); err != nil && !errors.Is(err, ErrNotNewer) {
						t.Error(err)
					}
				}
			})
			makers.Go(func() {
				for _, f := range files {
					if err := f.receive(s, 300); err != nil && !errors.Is(err, ErrNotNewer) {
						t.Error(err)
					}
				}
			})
			makers.Wait()
			done.Store(true)
			readers.Wait()
			found := ids(t, s)
			require.Len(t, found, 2)
			require.GreaterOrEqual(t, found[0].Index, 10*rounds)
			left, err := fs.List(s.dir)
			require.NoError(t, err)
			require.Equal(t, namesOf(found...), left)
		})
	}
}

// readAll reads what there is, in every way. What is listed may be gone.
func readAll(s *Store) error {
	for _, info := range s.List() {
		err := errors.Join(info.Err, check(s, info.ID), readRaw(s, info))
		if err != nil && !errors.Is(err, iofs.ErrNotExist) {
			return fmt.Errorf("%v: %w", info, err)
		}
	}
	return nil
}

func readRaw(s *Store, info Info) error {
	raw, err := s.Raw(info.ID)
	if err != nil {
		return err
	}
	defer raw.Close()
	if raw.Info() != info {
		return fmt.Errorf("it is %v", raw.Info())
	}
	n, err := io.Copy(io.Discard, io.NewSectionReader(raw, 0, info.Size))
	if n != info.Size {
		return fmt.Errorf("read %d bytes: %w", n, err)
	}
	return err
}

// TestTwoCommits of the same snapshot at the same time: one wins, and it is whole.
func TestTwoCommits(t *testing.T) {
	disk := vfs.NewMemory()
	s := open(t, disk, small(1))
	for index := uint64(1); index < 60; index++ {
		f := source(t, at(index), 1)
		w, err := take(s, at(index), false)
		require.NoError(t, err)
		r, err := s.Receive(f.Info)
		require.NoError(t, err)
		require.NoError(t, f.pass(r, f.Size, 1000))
		var taken, received error
		var both sync.WaitGroup
		both.Go(func() { _, taken = w.Commit() })
		both.Go(func() { _, received = r.Commit() })
		both.Wait()
		require.True(t, (taken == nil) != (received == nil), "%v, %v", taken, received)
		require.ErrorIs(t, errors.Join(taken, received), ErrNotNewer)
		require.Equal(t, at(index), ids(t, s)[0])
		require.Equal(t, namesOf(ids(t, s)...), names(disk))
	}
}

// TestStalledDisk: who lists or reads does not wait for a sync that hangs.
func TestStalledDisk(t *testing.T) {
	disk := vfs.NewMemory()
	s := open(t, disk, small(1))
	mustTake(t, s, at(10))
	var gate vfs.Gate
	for _, kind := range []vfs.OpKind{vfs.OpSync, vfs.OpRename, vfs.OpSyncDir, vfs.OpRemove} {
		mustTake(t, s, at(s.newest()+10))
		disk.Inject(func(op vfs.Op) error {
			if op.Kind == kind {
				gate.Pass()
			}
			return nil
		})
		gate.Hold()
		newest := s.newest()
		finished := make(chan error)
		go func() {
			_, err := take(s, at(newest+10), true)
			finished <- err
		}()
		for gate.Waiting() == 0 {
			select {
			case err := <-finished:
				t.Fatalf("there was no %v, and it returned %v", kind, err)
			default:
				require.NoError(t, readAll(s))
			}
		}
		require.NoError(t, readAll(s))
		require.Equal(t, kind == vfs.OpRemove, s.newest() > newest)
		gate.Release()
		require.NoError(t, <-finished)
		disk.Inject(nil)
	}
}
