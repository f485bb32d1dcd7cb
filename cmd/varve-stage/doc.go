// Command varve-stage sets a container up from the inside and becomes its program. It is
// no command for people: varve has it in its own file, and executes it from memory.
package main
