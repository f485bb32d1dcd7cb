// Package stage has the programs that a container needs beside varve: the small one that
// sets it up from the inside and then becomes its program (cmd/varve-stage), and the one
// that serves it (cmd/varve-supervisor). Both come up in half the time of varve, or less.
//
// They are part of varve's own file, put there by scripts/build.sh, as make does it. A
// varve that was built without, as by go build, has none and does that work itself.
package stage
