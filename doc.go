// Package varve is the map of the house; it has no code of its own.
//
// A varve is one season's layer of sediment; a stack of varves is a history you
// can read. varve is a union file system in user space, and a container runner
// on top of it, in one static binary.
//
// # The words
//
//	layer              a read-only set of changes over its parent: files, whiteouts, and
//	                   metadata (id, parent pointer, who made it, how). The lowest has no parent
//	whiteout           the mark in a layer that hides a name of the layers under it; an
//	                   opaque directory hides all that is under it
//	chain              a layer and its ancestors, top first. Its id is the OCI chain ID
//	image              a name for a chain, plus the OCI config
//	upper              the one read-write layer on top of a chain
//	container          an image + an upper + a config; running or not
//	running container  a container + an isolated process tree that sees the union as its root
//	view               the union of upper and chain, as FUSE shows it
//	copy-up            bringing one file from the chain to the upper before it is changed
//
// container = image + upper, run = create + start.
//
// # The house
//
//	cmd/varve          main.go and one file a verb: flags in, one engine call, print
//	cmd/varve-supervisor   the process of one container, without the verbs
//	cmd/varve-stage    the small program that sets a container up from the inside
//	internal/stage     these programs, in varve's own file
//	internal/container one container: its files, its supervisor, and the words between that and the verbs
//	internal/engine    what a verb means: records, layers and containers meet here
//	unionfs            the view: every FUSE operation, lookup through the chain
//	whiteout           how "hidden here" is written and read, in every dialect
//	copyup             bring one file up, whole or not at all
//	layerdb            layers, images, containers, tags in badger; the layer directories beside it
//	internal/layout    where things lie in a store, and what is unfinished; no records
//	runner             namespaces, the root, the terminal, the program
//	internal/cgroup    a container's control group: frozen, limited, removed
//	internal/seccomp   which system calls a container may make: docker's profiles as filters
//	internal/archive   layers and images as tar: unpack, pack, save, load, export
//	internal/registry  registries of images: what they have, verified; in and out
//	internal/index     the merged tree of one chain in one mapped file
//	internal/uring     commands to a device through io_uring
//	internal/at        thin fd-relative system calls: one directory fd, one name, no path walked twice
//	internal/hugeheap  the first pages of Go's heap as one huge page
//	internal/testenv   what the tests need from the machine
//	bench              workloads over a mounted view, beside the peers
//
// Imports point one way, and a test beside this file holds the code to it:
//
//	cmd/varve → internal/engine → layerdb          → internal/layout, whiteout, internal/at
//	                            → unionfs          → whiteout, copyup, internal/at
//	                            → runner           → internal/seccomp, internal/at
//	                            → internal/cgroup
//	                            → internal/archive → layerdb, whiteout, copyup, internal/at
//	                            → internal/registry
//	                            → internal/container → internal/layout, unionfs, runner, internal/cgroup, internal/stage, whiteout, internal/at
//	                            → internal/stage    → runner
//	cmd/varve-supervisor → internal/container, runner
//	cmd/varve-stage → runner
//	all three programs → internal/hugeheap
//	copyup, internal/index → whiteout, internal/at
//	internal/layout → internal/at
//	bench     → unionfs, or the built binary as a black box
//
// unionfs, layerdb and runner never import each other. One foreign thing a room:
// go-fuse only in unionfs, bench and internal/testenv/failfs, badger only in layerdb, the client of registries
// only in internal/registry, namespace flags only in runner, raw *at system calls only in internal/at.
//
// unionfs, whiteout and copyup are a library without the engine: they are what
// one imports to study or measure a union file system. The long account is in
// docs/design.md.
package varve
