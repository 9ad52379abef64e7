package raft

import (
	"context"
	"fmt"
	"slices"
)

// Resolve settles later what was left open: whether the log has an entry.

// resolution is who waits to learn what has become of an entry.
type resolution struct {
	EntryID
	done func(Index, error) // gets the index if the entry is committed, else 0
}

type (
	// resolveWanted: somebody wants to know.
	resolveWanted struct{ *resolution }
	// resolveLeft: and does not wait any more.
	resolveLeft struct{ *resolution }
)

// maxResolutions bounds those who wait.
const maxResolutions = 1 << 12

// Resolve settles an [*OutcomeUnknownError], whose Index and Term it is given: true says
// that the entry is committed, and is applied or will be, false that it is not and never
// will be, so that proposing the command again cannot apply it twice. It works on any member, and waits
// until the member knows, as long as ctx lasts: for a leader, and for what that commits.
//
// What is not kept in the log any more may have been forgotten: then the error matches
// [ErrCompacted], unless what is left tells. It matches [ErrStopped] if the node stops, and
// [ErrOverloaded] if 4096 callers wait already: both say nothing of the entry. An
// error whose Index is 0 says nothing that could be resolved.
func (n *Node) Resolve(ctx context.Context, index Index, term Term) (committed bool, err error) {
	if index == 0 || term == 0 {
		return false, fmt.Errorf("raft: no log has an entry %d of term %d: nothing is known of where the command stands", index, term)
	}
	if ctx.Err() != nil {
		return false, contextError(ctx)
	}
	r := &resolution{EntryID: EntryID{index, term}}
	at, err, inTime := n.awaitIndex(ctx, func(done func(Index, error)) any {
		r.done = done
		return resolveWanted{r}
	})
	if !inTime {
		n.inbox.post(resolveLeft{r})
	}
	return at > 0, err
}

// verdict says what has become of an entry, once that is settled: it is committed if the
// one at its index that is committed is of its term. Terms never fall along a log, so a
// committed entry of a later term before its index, or of an earlier one behind it, says
// that it never will be.
func (c *core) verdict(id EntryID) (committed, settled bool, err error) {
	if id.Index > c.commitIndex {
		last, _ := c.log.term(c.commitIndex)
		return false, last > id.Term, nil
	}
	term, known := c.log.term(id.Index)
	switch {
	case known:
		return term == id.Term, true, nil
	case c.log.compacted.Term < id.Term:
		return false, true, nil
	default:
		return false, true, fmt.Errorf("raft: node %s: %w: entry %d of a log that starts at %d", c.settings.id, ErrCompacted, id.Index, c.log.firstKept())
	}
}

// settleResolutions ends the waits of those whose entries are settled.
func (d *driver) settleResolutions() {
	d.resolutions = slices.DeleteFunc(d.resolutions, func(r *resolution) bool {
		committed, settled, err := d.core.verdict(r.EntryID)
		switch {
		case !settled:
			return false
		case committed:
			d.endWait(r.done, r.Index, nil)
		default:
			d.endWait(r.done, 0, err)
		}
		return true
	})
}

func (d *driver) handleResolveWanted(e resolveWanted) {
	if len(d.resolutions) >= maxResolutions {
		d.endWait(e.done, 0, fmt.Errorf("%w: %d of them wait for what becomes of entries", ErrOverloaded, maxResolutions))
		return
	}
	d.resolutions = append(d.resolutions, e.resolution)
}

func (d *driver) handleResolveLeft(e resolveLeft) {
	d.resolutions = slices.DeleteFunc(d.resolutions, func(r *resolution) bool { return r == e.resolution })
}

// endResolutions ends all these waits.
func (d *driver) endResolutions(err error) {
	for _, r := range d.resolutions {
		d.endWait(r.done, 0, err)
	}
	d.resolutions = nil
}
