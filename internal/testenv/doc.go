// Package testenv is what the tests need from the machine: other users, root
// file systems, the built binary, and a look at what a test left behind.
//
// Its law: what a helper makes, it removes when the test ends; and a test is
// skipped only for something the host lacks, with a message that says what it is
// and the command that mends it (`make test` runs those commands where it may).
//
// The nouns:
//
//   - a [User] is an ordinary user of this machine, made for the test when root
//     runs it: [Ranged] has a range of subordinate ids, [Single] has none;
//   - a [Rootfs] is the small root file system of [Busybox];
//   - [Debian] is a tar of a real one, kept in a cache outside the repository;
//   - [CheckLeaks] compares mounts, processes and descriptors before and after.
//
// It is imported by tests only, and imports no other room, so every test can
// use it.
package testenv
