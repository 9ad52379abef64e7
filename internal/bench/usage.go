package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// usage is what counters say at a moment: differences between two are reported.
type usage struct {
	at      time.Time
	cpu     time.Duration // of this process, user and system
	busy    time.Duration // of the machine, all CPUs
	mallocs uint64        // of this process
	flushes uint64        // of the device that dir is on
}

func usageNow(dir string) usage {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{
		cpu:     time.Duration(r.Utime.Nano() + r.Stime.Nano()),
		busy:    machineBusy(),
		mallocs: m.Mallocs,
		flushes: deviceFlushes(dir),
		at:      time.Now(),
	}
}

// usage adds what has been used for so many operations.
func (s samples) usage(from, to usage, operations uint64) {
	seconds, n := to.at.Sub(from.at).Seconds(), float64(operations)
	s.add(rate, n/seconds)
	s.add(cpuMicros, float64((to.cpu-from.cpu).Microseconds())/n)
	s.add(allocations, float64(to.mallocs-from.mallocs)/n)
	if to.flushes > from.flushes {
		s.add(flushes, float64(to.flushes-from.flushes)/n)
	}
	s.add(otherCores, max(0, ((to.busy-from.busy)-(to.cpu-from.cpu)).Seconds()/seconds))
}

// machineBusy is how long all CPUs together have worked, 0 if nobody says.
func machineBusy() time.Duration {
	data, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(data), "\n")
	fields := strings.Fields(line) // cpu user nice system idle iowait irq softirq ...
	var ticks uint64
	for _, i := range []int{1, 2, 3, 6, 7} {
		ticks += number(fields, i)
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// deviceFlushes is how many flushes the device below a directory has completed since the
// machine has started, 0 if there is no device, or it does not say.
func deviceFlushes(dir string) uint64 {
	var s syscall.Stat_t
	if syscall.Stat(dir, &s) != nil {
		return 0
	}
	major, minor := s.Dev>>8&0xfff, s.Dev&0xff|s.Dev>>12&0xfff00
	device, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return 0
	}
	if _, err := os.Stat(filepath.Join(device, "partition")); err == nil {
		device = filepath.Dir(device) // flushes are of the whole disk
	}
	data, _ := os.ReadFile(filepath.Join(device, "stat"))
	return number(strings.Fields(string(data)), 15)
}

func number(fields []string, i int) uint64 {
	if i >= len(fields) {
		return 0
	}
	n, _ := strconv.ParseUint(fields[i], 10, 64)
	return n
}

// memory adds a field of the process's status, such as VmHWM, in MiB. A system that
// does not say it leaves it out.
func (s samples) memory(m metric, field string) {
	data, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == field+":" {
			s.add(m, float64(number(fields, 1))/1024)
		}
	}
}

// forgetPeak makes the peak of memory that of what follows, where the system can.
func forgetPeak() error { return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }
