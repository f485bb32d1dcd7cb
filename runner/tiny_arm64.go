package runner

// tinyMachine is EM_AARCH64.
const tinyMachine = 183
