package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// Fields that are named change, and a name that is none is an error.
func TestConfigure(t *testing.T) {
	config := raft.Config{MaxBatchBytes: 5}
	require.NoError(t, configure(&config, ""))
	require.NoError(t, configure(&config, `{"LogCacheBytes": 7}`))
	require.Equal(t, raft.Config{MaxBatchBytes: 5, LogCacheBytes: 7}, config)
	require.ErrorContains(t, configure(&config, `{"LogCacheByte": 7}`), "LogCacheByte")
}
