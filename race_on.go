//go:build race

package raft

// raceDetection is whether this is built with -race.
const raceDetection = true
