// Package layout says where things lie in a store, and has the stages, the directories
// of what is unfinished. It knows nothing of records, so that whoever only works with
// the files of a container need not bring a database along.
package layout
