package main

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// apply executes commands on s and returns their replies as text. One that is only a
// key is a read.
func apply(t *testing.T, s *store, commands ...command) (replies []string) {
	for _, c := range commands {
		if c.op == 0 {
			r := reply{outcome: outcomeAbsent}
			if value, exists, _ := s.read(c.key); exists {
				r = reply{outcome: outcomeDone, value: value}
			}
			replies = append(replies, show(r))
			continue
		}
		response, err := s.Apply(c.encode())
		require.NoError(t, err)
		r, err := decodeReply(response)
		require.NoError(t, err)
		require.Equal(t, checksum(c.encode()), r.command)
		replies = append(replies, show(r))
	}
	return replies
}

func show(r reply) string {
	name := map[outcome]string{outcomeDone: "done", outcomeAbsent: "absent", outcomeConflict: "conflict"}[r.outcome]
	if len(r.value) > 0 {
		name += " " + string(r.value)
	}
	return name
}

func get(key string) command        { return command{key: key} }
func set(key, value string) command { return command{op: opSet, key: key, value: []byte(value)} }
func remove(key string) command     { return command{op: opDelete, key: key} }
func create(key, value string) command {
	return command{op: opCreate, key: key, value: []byte(value)}
}
func plus(key, n string) command { return command{op: opAdd, key: key, value: []byte(n)} }
func swap(key, old, value string) command {
	return command{op: opSwap, key: key, old: []byte(old), value: []byte(value)}
}

func TestStore(t *testing.T) {
	tests := map[string]struct {
		commands []command
		want     []string
	}{
		"get nothing":            {[]command{get("k")}, []string{"absent"}},
		"set and get":            {[]command{set("k", "v"), get("k")}, []string{"done", "done v"}},
		"set twice":              {[]command{set("k", "v"), set("k", "w"), get("k")}, []string{"done", "done", "done w"}},
		"keys are apart":         {[]command{set("k", "v"), get("K")}, []string{"done", "absent"}},
		"delete":                 {[]command{set("k", "v"), remove("k"), get("k"), remove("k")}, []string{"done", "done", "absent", "absent"}},
		"create":                 {[]command{create("k", "v"), create("k", "w"), get("k")}, []string{"done", "conflict v", "done v"}},
		"create after delete":    {[]command{set("k", "v"), remove("k"), create("k", "w")}, []string{"done", "done", "done"}},
		"swap":                   {[]command{set("k", "v"), swap("k", "v", "w"), get("k")}, []string{"done", "done", "done w"}},
		"swap of another value":  {[]command{set("k", "v"), swap("k", "x", "w"), get("k")}, []string{"done", "conflict v", "done v"}},
		"swap of nothing":        {[]command{swap("k", "", "w"), get("k")}, []string{"absent", "absent"}},
		"swap of an empty value": {[]command{set("k", ""), swap("k", "", "w"), get("k")}, []string{"done", "done", "done w"}},
		"an empty value exists":  {[]command{set("k", ""), get("k"), create("k", "w")}, []string{"done", "done", "conflict"}},
		"add":                    {[]command{plus("k", "2"), plus("k", "-5"), get("k")}, []string{"done 2", "done -3", "done -3"}},
		"add to text":            {[]command{set("k", "v"), plus("k", "1"), get("k")}, []string{"done", "conflict v", "done v"}},
		"add to an empty value":  {[]command{set("k", ""), plus("k", "1")}, []string{"done", "conflict"}},
		"add what is no number":  {[]command{plus("k", "x"), get("k")}, []string{"conflict", "absent"}},
		"add up to the largest":  {[]command{set("k", "9223372036854775806"), plus("k", "1"), plus("k", "1"), plus("k", "0")}, []string{"done", "done 9223372036854775807", "conflict 9223372036854775807", "done 9223372036854775807"}},
		"add down to the least":  {[]command{set("k", "-9223372036854775807"), plus("k", "-1"), plus("k", "-1")}, []string{"done", "done -9223372036854775808", "conflict -9223372036854775808"}},
		"keys that are not text": {[]command{set("\xff\x00/", "v"), get("\xff\x00/")}, []string{"done", "done v"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, apply(t, newStore(), test.commands...))
		})
	}
}

// What is read comes with an index that says what it is due to, also once a snapshot
// has been restored.
func TestReadsTellTheIndex(t *testing.T) {
	s := newStore()
	commands := []raft.Command{{Index: 7, Data: set("k", "v").encode()}, {Index: 9, Data: []byte("nonsense")}}
	results := make([]raft.ApplyResult, 2)
	s.ApplyBatch(commands, results)
	require.NoError(t, results[0].Err)
	require.Error(t, results[1].Err)
	_, exists, index := s.read("k")
	require.True(t, exists)
	require.Equal(t, raft.Index(9), index)

	snapshot, err := s.Snapshot()
	require.NoError(t, err)
	again := newStore()
	require.NoError(t, again.Restore(snapshot))
	value, _, index := again.read("k")
	require.Equal(t, "v", string(value))
	require.Equal(t, raft.Index(9), index)
	require.NoError(t, again.Restore([]byte{0x81, 0xa1, 'k', 0xa1, 'w'}), "of an earlier version")
	value, _, _ = again.read("k")
	require.Equal(t, "w", string(value))
}

func TestStoreKeepsNothingOfACommand(t *testing.T) {
	s := newStore()
	data := set("k", "v").encode()
	_, err := s.Apply(data)
	require.NoError(t, err)
	clear(data) // as raft may
	require.Equal(t, []string{"done v"}, apply(t, s, get("k")))
}

func TestStoreRefusesCommandsThatMakeNoSense(t *testing.T) {
	whole := swap("key", "old", "value").encode()
	bad := map[string][]byte{
		"unknown operation": command{op: 99, key: "k"}.encode(),
		"no operation":      command{key: "k"}.encode(),
		"a read, as before": command{op: 1, key: "k"}.encode(),
		"too few fields":    encode(uint8(opSet), []byte("k")),
		"not an array":      {0x01},
		"one byte more":     append(bytes.Clone(whole), 0),
		"huge length":       {0x94, 0x01, 0xc6, 0xff, 0xff, 0xff, 0xff},
	}
	for i := range whole {
		bad[fmt.Sprintf("first %d bytes", i)] = whole[:i]
	}
	for name, data := range bad {
		t.Run(name, func(t *testing.T) {
			s := newStore()
			s.values["key"] = []byte("old")
			response, err := s.Apply(data)
			require.ErrorContains(t, err, "command: ")
			require.Nil(t, response)
			require.Equal(t, map[string][]byte{"key": []byte("old")}, s.values)
		})
	}
}

func FuzzStore(f *testing.F) {
	f.Add(swap("key", "old", "value").encode())
	f.Add([]byte{0x81, 0xa1, 'x', 0xa1, '1'})
	f.Add([]byte{0x07, 0x81, 0xa1, 'x', 0xa1, '1'})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newStore()
		s.Apply(data) // no panic
		if s.Restore(data) != nil {
			return
		}
		snapshot, err := s.Snapshot()
		require.NoError(t, err)
		again := newStore()
		require.NoError(t, again.Restore(snapshot))
		require.Equal(t, s.values, again.values)
		require.Equal(t, s.index, again.index)
	})
}
