package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// task is what one process has to do: a cell, or a part of one that needs a process of
// its own. It is passed on in the environment, to this same program.
type task struct {
	Peer     string  `json:"peer"`
	Row      row     `json:"row"`
	Seconds  float64 `json:"seconds"`
	Dir      string  `json:"dir"` // what the cell may fill, and what its nodes share
	Part     part    `json:"part,omitempty"`
	Node     int     `json:"node,omitempty"`     // of a part that is one node
	Profiles string  `json:"profiles,omitempty"` // the beginning of the names of profiles; empty: none
	Ours     string  `json:"ours,omitempty"`     // fields of this library's Config, in JSON
	GOGC     string  `json:"gogc,omitempty"`     // empty: as it is without it
}

// part says which part of a cell a process is.
type part string

const (
	wholeCell part = ""
	oneNode   part = "node" // of an election
	fillLogs  part = "fill" // before a restart
)

const taskVariable = "RAFT_BENCH_TASK"

// taskOfThisProcess returns the task that another process has started this one for.
func taskOfThisProcess() (t task, ok bool, err error) {
	text, ok := os.LookupEnv(taskVariable)
	if ok {
		err = json.Unmarshal([]byte(text), &t)
	}
	return t, ok, err
}

// dragonboatSettings is a file that dragonboat reads in the working directory: with its
// own bounds, 2048, it refuses commands of 4096 callers.
//
//go:embed dragonboat.json
var dragonboatSettings []byte

// prepare makes the directory ready that processes of a cell work in.
func (t task) prepare() error {
	settings := filepath.Join(t.Dir, "dragonboat-soft-settings.json")
	return errors.Join(os.WriteFile(settings, dragonboatSettings, 0o644), makeAddresses(t.Dir))
}

// command returns the process for the task, not started yet. What this process has for its
// own garbage collector is not handed on.
func (t task) command(ctx context.Context) (*exec.Cmd, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Dir = t.Dir
	for _, setting := range os.Environ() {
		name, _, _ := strings.Cut(setting, "=")
		if name != "GOGC" && name != "GOMEMLIMIT" && name != "GODEBUG" && name != taskVariable {
			cmd.Env = append(cmd.Env, setting)
		}
	}
	cmd.Env = append(cmd.Env, taskVariable+"="+string(text))
	if t.GOGC != "" {
		cmd.Env = append(cmd.Env, "GOGC="+t.GOGC)
	}
	return cmd, nil
}

// run runs the task in a process of its own, and returns what it prints. Whatever that
// process has started ends with it.
func (t task) run(ctx context.Context) ([]byte, error) {
	cmd, err := t.command(ctx)
	if err != nil {
		return nil, err
	}
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	err = cmd.Wait()
	_ = cmd.Cancel()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, firstLines(problems.String(), 20))
	}
	return out.Bytes(), nil
}

// firstLines returns the beginning of what a process has printed before it failed: with
// a panic that is what matters. What dragonboat says about its settings is left out.
func firstLines(text string, n int) string {
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(text), "\n"), func(line string) bool {
		return strings.Contains(line, " | settings: ")
	})
	return strings.Join(lines[:min(n, len(lines))], "\n")
}
