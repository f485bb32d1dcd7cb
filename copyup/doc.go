// Package copyup brings one file of a lower layer up, whole or not at all.
//
// Its law: at every moment, also after a crash, the upper holds either nothing
// under the name or the whole file with its owner, mode, extended attributes,
// times and holes; or a file that is marked as one with only its metadata, whose data
// is still below. So a copy is made without a name, or in the work directory, which is on
// the file system of the upper, and then linked or renamed into place: [Stage], then
// [Staged.Publish]. What a crash leaves in the work directory is swept at the
// next mount. Data that is still below comes into the marked file itself, before the
// mark goes: [Completion].
//
// It takes no locks; the caller sees to it that one file is brought up once
// (unionfs does, with one wait a file). Everything it reads of the lower layer
// it reads through descriptors of the caller.
package copyup
