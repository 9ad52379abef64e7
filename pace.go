package raft

import "time"

// pace keeps below a rate what brings a follower up to date that lags far: it shares
// disks, links and processors with the writes that clients wait for.
//
// Of a log, what it grows by is not counted. So a follower comes nearer at the full
// rate, however fast the log grows.
type pace struct {
	at     time.Duration
	credit int64  // bytes that might have been sent by then and were not; below 0: more were
	grown  uint64 // what the log had been given by then
}

// due returns when more may go out, at rate bytes per second, if the log was given
// grown bytes by now.
func (p *pace) due(grown uint64, rate int) time.Duration {
	short := -float64(p.credit) - float64(grown-p.grown)
	return p.at + time.Duration(max(0, short)/float64(rate)*float64(time.Second))
}

// spend notes that so many bytes go out. Of what was not used before, saved bytes are
// saved up at most.
func (p *pace) spend(now time.Duration, bytes int, grown uint64, rate, saved int) {
	earned := (now-p.at).Seconds()*float64(rate) + float64(grown-p.grown)
	p.credit = int64(min(float64(saved), float64(p.credit)+earned)) - int64(bytes)
	p.at, p.grown = now, grown
}
