//go:build race

package testenv

// raceEnabled tells whether this program has the race detector in it.
const raceEnabled = true
