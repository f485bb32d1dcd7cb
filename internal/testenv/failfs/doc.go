// Package failfs is a file system that fails at the step a test names: a directory,
// seen through FUSE, whose changes are counted.
//
// Its law: what is refused has not been done, and what was done before is there as on
// any disk. Reading never fails. A test looks at the directory itself, never through
// the mount: it is its server.
package failfs
