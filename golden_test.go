package raft

import "flag"

// rewrite makes tests that compare with files under testdata write these
// instead.
var rewrite = flag.Bool("rewrite", false, "write the files under testdata anew")
