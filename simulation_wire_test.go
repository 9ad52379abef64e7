package raft

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/seed-8da499c8/raft/internal/sim"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// What is between the nodes of a simulation: messages as bytes, faults, clients.

// encoded turns a message into bytes.
func encoded(m encoding.BinaryAppender) []byte {
	b, err := m.AppendBinary(nil)
	if err != nil {
		panic(err)
	}
	return b
}

// decoded reads a message that a node has sent.
func decoded[M any, P interface {
	*M
	encoding.BinaryUnmarshaler
}](b []byte) *M {
	m := P(new(M))
	if err := m.UnmarshalBinary(b); err != nil {
		panic(err)
	}
	return (*M)(m)
}

func (n *simNode) send(r request) {
	to := n.nodes[n.numberOf(r.to)]
	switch m := r.message.(type) {
	case *VoteRequest:
		n.call(to, m, simElectionTimeout,
			func(b []byte, respond responder) any { return voteRequested{decoded[VoteRequest](b), respond} },
			func(b []byte, err error) any {
				answer := voteAnswered{from: to.id, term: m.Term, preVote: m.PreVote, err: err}
				if err == nil {
					answer.response = decoded[VoteResponse](b)
				}
				return answer
			})
	case *Heartbeat:
		n.call(to, m, simElectionTimeout/2,
			func(b []byte, respond responder) any { return heartbeatArrived{decoded[Heartbeat](b), respond} },
			func(b []byte, err error) any {
				answer := heartbeatAnswered{from: to.id, term: m.Term, err: err}
				if err == nil {
					answer.response = decoded[HeartbeatResponse](b)
				}
				return answer
			})
	case *TimeoutNow:
		n.call(to, m, simElectionTimeout,
			func(b []byte, respond responder) any { return timeoutNowArrived{decoded[TimeoutNow](b), respond} },
			func(b []byte, err error) any {
				answer := timeoutNowAnswered{from: to.id, term: m.Term, err: err}
				if err == nil {
					answer.response = decoded[TimeoutNowResponse](b)
				}
				return answer
			})
	case *ForwardRequest:
		n.call(to, m, r.patience,
			func(b []byte, respond responder) any { return forwardArrived{decoded[ForwardRequest](b), respond} },
			func(b []byte, err error) any {
				answer := forwardAnswered{from: to.id, request: m, err: err}
				if err == nil {
					answer.response = decoded[ForwardResponse](b)
				}
				return answer
			})
	case *AppendEntries:
		n.stream(to, m)
	case *InstallSnapshot:
		id := EntryID{m.LastIndex, m.LastTerm}
		n.call(to, m, r.patience,
			func(b []byte, respond responder) any { return snapshotArrived{decoded[InstallSnapshot](b), respond} },
			func(b []byte, err error) any {
				answer := snapshotAnswered{from: to.id, term: m.Term, id: id, err: err}
				if err == nil {
					answer.response = decoded[SnapshotResponse](b)
				}
				return answer
			})
	default:
		panic(fmt.Sprintf("no way to send a %T", m))
	}
}

// call is carry for what comes out of a driver, which is to see the answer.
func (n *simNode) call(to *simNode, message encoding.BinaryAppender, patience time.Duration, arrival func([]byte, responder) any, answer func([]byte, error) any) {
	life := n.life
	n.carry(to, message, patience, arrival, func(response []byte, err error) { n.postIn(life, answer(response, err)) })
}

// carry carries a request to a node and its answer back, or reports after a while
// that there is none. What it doubles is more than a transport may do: commands come
// once at most.
func (n *simNode) carry(to *simNode, message encoding.BinaryAppender, patience time.Duration, arrival func([]byte, responder) any, answer func([]byte, error)) {
	ended, came, request := false, false, encoded(message)
	end := func(response []byte, err error) {
		if !ended {
			ended = true
			answer(response, err)
		}
	}
	timeout := n.world.After(patience, func() { end(nil, errSimTimeout) })
	n.network.Send(n.number, to.number, message, func() {
		if _, isForward := message.(*ForwardRequest); to.driver == nil || came && isForward {
			return
		}
		came = true
		theirs := to.life
		to.post(arrival(request, func(response any, err error) {
			if to.life != theirs {
				return
			}
			var answer []byte
			if err == nil {
				answer = to.answer(n.id, response)
			} else {
				response = err
			}
			n.network.Send(to.number, n.number, response, func() {
				timeout.Cancel()
				end(answer, err)
			})
		}))
	})
}

// answer turns an answer into bytes, as it leaves.
func (n *simNode) answer(to NodeID, response any) []byte {
	n.checkAnswer(to, response)
	return encoded(response.(encoding.BinaryAppender))
}

// stream sends entries over the stream of their term.
func (n *simNode) stream(to *simNode, m *AppendEntries) {
	p := n.peers[to.number]
	life := n.life
	if p == nil || p.term != m.Term {
		n.reset(to.id)
		p = &simPeer{term: m.Term}
		p.stream = n.network.NewStream(n.number, to.number, func() {
			if n.life == life && n.peers[to.number] == p {
				n.peers[to.number] = nil
				n.postIn(life, appendLost{to.id, m.Term, errSimTimeout})
			}
		})
		n.peers[to.number] = p
	}
	b := encoded(m)
	p.stream.Send(m, func() {
		if to.driver == nil {
			p.stream.Break()
			return
		}
		theirs := to.life
		to.post(appendArrived{decoded[AppendEntries](b), func(response any, err error) {
			switch {
			case to.life != theirs:
			case err != nil:
				p.stream.Break()
			default:
				answer := to.answer(n.id, response)
				p.stream.Answer(response, func() {
					n.postIn(life, appendAnswered{to.id, m.Term, decoded[AppendResponse](answer)})
				})
			}
		}})
	})
}

func (n *simNode) reset(id NodeID) {
	if p := n.peers[n.numberOf(id)]; p != nil {
		p.stream.Close()
		n.peers[n.numberOf(id)] = nil
	}
}

// simMachines lets faults reach the nodes, as long as there are to be faults.
type simMachines struct{ *simulation }

func (m simMachines) node(i int) *simNode { return m.nodes[i] }

func (m simMachines) Kill(i int) {
	if !m.over {
		m.node(i).kill()
	}
}

func (m simMachines) PowerCut(i int, seed uint64) {
	if m.over {
		return
	}
	modes := []vfs.CrashMode{vfs.CrashLose, vfs.CrashKeep, vfs.CrashTear, vfs.CrashScatter}
	mode := modes[rand.New(rand.NewPCG(seed, 1)).IntN(len(modes))]
	m.world.Count("power cut, " + mode.String())
	m.node(i).crash(mode, seed)
}

func (m simMachines) InWrite(i int, happen func()) {
	if !m.over {
		m.node(i).inWrite = happen
	}
}

func (m simMachines) Start(i int) {
	if !m.over {
		m.node(i).inWrite = nil
		m.node(i).disk.Inject(nil)
		m.node(i).start()
	}
}

func (m simMachines) Freeze(i int, frozen bool)   { m.node(i).freeze(frozen && !m.over) }
func (m simMachines) SlowDisk(i int, by float64)  { m.node(i).slowDisk = m.unlessOver(by) }
func (m simMachines) HangDisk(i int, hung bool)   { m.node(i).hang(hung && !m.over) }
func (m simMachines) SlowApply(i int, by float64) { m.node(i).slowApply = m.unlessOver(by) }
func (m simMachines) Clock(i int) *sim.Clock      { return m.node(i).clock }
func (m simMachines) FailSync(i int, seed uint64) {
	if !m.over {
		m.node(i).disk.Inject(vfs.Nth(vfs.OpSync, 1+int(seed%5), vfs.ErrIO))
	}
}

func (m simMachines) Leader() int {
	if n := m.leader(); n != nil {
		return n.number
	}
	return -1
}

func (m simMachines) unlessOver(by float64) float64 {
	if m.over {
		return 0
	}
	return by
}

// enqueue leaves an entry with the node, and calls back when its outcome is known.
func (n *simNode) enqueue(kind EntryKind, data []byte, done func(Result, error)) {
	if err := n.inbox.enqueue(kind, data, proposal{done: done}); err != nil {
		done(Result{}, err)
		return
	}
	n.wake()
}

// propose leaves a client's command with the node, which may send it on to its leader,
// and calls back when its outcome is known.
func (n *simNode) propose(op *sim.Operation, ended func()) {
	conclude := func(result Result, err error) {
		n.conclude(op, result, err)
		ended()
	}
	n.enqueue(EntryCommand, []byte(op.Command), func(result Result, err error) {
		var elsewhere *NotLeaderError
		if n.settings.forwards && errors.As(err, &elsewhere) && elsewhere.Leader != "" {
			n.forward(elsewhere.Leader, []byte(op.Command), conclude)
			return
		}
		conclude(result, err)
	})
}

// forward does what [Node.forward] does.
func (n *simNode) forward(leader NodeID, command []byte, done func(Result, error)) {
	n.world.Count("commands forwarded")
	life, to := n.life, n.nodes[n.numberOf(leader)]
	request := &ForwardRequest{Header: n.driver.core.header(leader), Kind: ForwardPropose, Payload: command}
	arrival := func(b []byte, respond responder) any {
		arrived := decoded[ForwardRequest](b)
		return forwardArrived{arrived, to.serving(arrived, respond)}
	}
	n.carry(to, request, simPatience, arrival, func(b []byte, err error) {
		if n.life != life || n.driver == nil {
			return
		}
		if err != nil {
			done(Result{}, commandError(context.Background(), err))
			return
		}
		response := decoded[ForwardResponse](b)
		result, err := response.outcome(leader)
		if response.Code != CodeOK {
			done(Result{}, commandError(context.Background(), err))
			return
		}
		n.world.Count("forwarded commands done")
		n.await(ReadOptions{Level: ReadLocal, MinIndex: result.Index}, func(_ Index, lost error) {
			if lost != nil {
				done(Result{}, &OutcomeUnknownError{Index: result.Index, Term: result.Term, Cause: lost})
				return
			}
			done(result, nil)
		})
	})
}

// serving does what [Node.HandleForward] does once the driver has answered.
func (n *simNode) serving(request *ForwardRequest, respond responder) responder {
	return func(response any, err error) {
		if err != nil || response.(*ForwardResponse).Code != CodeOK {
			respond(response, err)
			return
		}
		n.enqueue(EntryCommand, request.Payload, func(result Result, err error) {
			respond(forwardResponse(result, err), nil)
		})
	}
}

// conclude notes what a client is told.
func (n *simNode) conclude(op *sim.Operation, result Result, err error) {
	op.Return = n.world.Now()
	switch {
	case err == nil:
		op.Outcome, op.Index, op.Response = sim.Done, uint64(result.Index), string(result.Response)
	case CodeOf(err) == CodeOutcomeUnknown:
		op.Outcome = sim.Unknown
	default:
		op.Outcome = sim.Refused
	}
	n.world.Count("operations " + string(op.Outcome))
}
