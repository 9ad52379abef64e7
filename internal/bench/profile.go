package main

import (
	"errors"
	"os"
	"runtime"
	"runtime/pprof"
)

// profile starts what the task is to be profiled for, if anything, and returns what
// ends and writes it. Profiles are of the warm-up, too, and cost some of the speed.
func (t task) profile() (stop func() error, err error) {
	if t.Profiles == "" {
		return func() error { return nil }, nil
	}
	cpu, err := os.Create(t.Profiles + ".cpu.pprof")
	if err != nil {
		return nil, err
	}
	runtime.SetMutexProfileFraction(10)
	runtime.SetBlockProfileRate(10_000)
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, err
	}
	return func() error {
		pprof.StopCPUProfile()
		errs := []error{cpu.Close()}
		for _, name := range []string{"allocs", "mutex", "block"} {
			errs = append(errs, t.writeProfile(name))
		}
		return errors.Join(errs...)
	}, nil
}

func (t task) writeProfile(name string) error {
	file, err := os.Create(t.Profiles + "." + name + ".pprof")
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup(name).WriteTo(file, 0), file.Close())
}
