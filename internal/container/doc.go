// Package container is one container: what lies in its directory, the process that serves
// it, and the words between that process, its supervisor, and the verbs.
//
// The nouns:
//
//   - a [Spec] is what a container is to be, a [State] how it is, both files of its
//     directory; a [Place] is the store as a container sees it, directories without records;
//   - the supervisor ([Supervise]) mounts the view, runs the program in it, hands its
//     streams to whoever is attached and to the log, restarts it, and takes everything down;
//   - a [Wire] is a connection to it: a [Request] one way, a [Reply] the other, descriptors
//     with both.
//
// It knows no database and no registry: a program that only supervises
// (cmd/varve-supervisor) comes up in half the time of varve, and takes half its memory.
package container
