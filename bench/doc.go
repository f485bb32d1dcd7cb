// Package bench measures a mounted view beside its peers: kernel overlayfs and
// fuse-overlayfs, where the machine has them, and a plain directory.
//
// Its law: peers are compared only within one round. Times drift by a factor of
// two from run to run, so each round visits every peer once, with fresh mounts, in
// an order that turns by one a round (A B C, B C A); the ratio is taken inside the
// round, and the report gives the quartiles of the ratios. One round goes before
// that does not count. A fast wrong run is a failure: after each visit all that the
// view shows, contents included, is compared with a plain directory that was treated
// alike, and after each round the layers are looked at again.
//
// The nouns:
//
//   - a stack is a tree of files spread over layers, with a few whiteouts and
//     older versions, and the layers' union to compare with (stack.go);
//   - a peer shows a stack, as a process of its own or in the kernel (peer.go);
//   - a [Row] is one operation of the table, in a group of rows that follow each
//     other on one mount (rows.go, rows_data.go);
//   - a visit is a peer that shows the stack and a client that does the rows of a
//     group: a process with nothing else to do, whose system calls go past Go's
//     scheduler (client.go, sys.go);
//   - a snapshot is all that a tree shows (snapshot.go);
//   - a [Report] is the table; [Report.Ledger] gives it as rows of
//     docs/performance.md.
//
// Cold is: the last server ended and its mount gone, the kernel's entries and inodes
// dropped (drop_caches 2, as root), and mounted again. Layers and uppers are in
// memory and stay there. Each visit begins cold, with a walk; "first time" is the
// first time after it.
//
// `make bench-compare` prints the table and adds its rows to the ledger, `make bench`
// prints it only. ROUNDS is the number of rounds, ROWS and PEERS are regular
// expressions that choose. Benchmarks of the index alone: `go test -bench Index ./bench`.
//
// Images are compared apart ([CompareImages], images.go): whole processes of import,
// load, commit and the lists, on stores on disk, beside podman on fuse-overlayfs and
// beside tar and sha256sum. `make bench-images` prints that table.
package bench
