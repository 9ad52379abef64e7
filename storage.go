package raft

// Storage placeholder
type Storage interface{ Close() error }
