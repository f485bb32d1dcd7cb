// Package stage has the small program that sets a container up from the inside and then
// becomes the container's program: cmd/varve-stage, whose start takes half of what that
// of varve takes.
//
// It is part of varve's own file, put there by scripts/build.sh, as make does it. A
// varve that was built without, as by go build, has none and does that work itself.
package stage
