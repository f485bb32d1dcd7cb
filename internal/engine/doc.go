// Package engine is what a verb means: the only room where layers, mounts and
// processes meet.
//
// The nouns:
//
//   - the [Engine] is a store and what can be done with it;
//   - a [Spec] is what was asked of a container, kept in its config.json;
//   - a [State] is how the container fares, kept in its state.json by its
//     supervisor and by nobody else;
//   - the supervisor is the one long-lived process of a container: it serves the
//     view, owns the program, and dies with it ([Supervise]);
//   - a [Run] is the foreground's handle on a supervisor.
//
// Its law: what a verb has acknowledged is in the store, and what it has not
// acknowledged leaves nothing behind. A container is running if and only if its
// supervisor is alive, which pid and start time tell; nothing else is believed,
// so a machine that crashed shows no ghosts.
//
// Verbs that touch files of layers need to be root, or in the user namespace that
// owns them: [Inside] does that. Verbs that only read the records need neither.
package engine
