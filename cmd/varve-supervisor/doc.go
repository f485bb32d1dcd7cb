// Command varve-supervisor is the process of one container: varve's verbs `supervise` and
// `flush` without all other verbs, so that it comes up in half the time and takes half the
// memory. It is a part of varve, which starts it.
package main
