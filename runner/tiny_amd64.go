package runner

// tinyMachine is EM_X86_64.
const tinyMachine = 62
