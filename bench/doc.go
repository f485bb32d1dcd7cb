// Package bench measures a mounted view beside its peers: kernel overlayfs and
// fuse-overlayfs, where the machine has them.
//
// Its law: peers are compared only within one round. Times drift by a factor of
// two from run to run, so each round visits every peer once, with fresh mounts
// (A B C, A B C), the ratio is taken inside the round, and the report gives the
// median of the ratios. A fast wrong run is a failure: after each visit the
// work is checked, and the lower layers are hashed again.
//
// The nouns:
//
//   - a [Stack] is the layers that a visit mounts, the same for every peer;
//   - a [Peer] mounts a stack, as a process of its own or in the kernel;
//   - a [Workload] is one operation, prepared and then timed many times;
//   - a [Report] is the table of medians.
//
// `make bench` prints the table; the same workloads are Go benchmarks for
// profiles and for benchstat: `go test -bench . ./bench`. Figures that are to be
// kept go into docs/performance.md.
package bench
