// Package layerdb keeps layers, images, tags and containers: the records in
// badger, and beside them, as plain files, the bytes the records speak of.
//
// The nouns:
//
//   - a [Store] is a directory with everything in it;
//   - a [Layer] is a read-only set of changes, with a pointer to its parent;
//   - a chain is a layer and its ancestors, top first;
//   - an [Image] is a chain with a configuration, and a tag is a name for one;
//   - a [Container] is a chain with a read-write layer on top;
//   - a [Tx] is one short look at, or change of, the records;
//   - an index, of a chain, is a file beside the records that can be made again at any
//     time ([Store.ChainFile]);
//   - a [Stage] is a directory nobody knows yet, until it is published;
//   - a copy, of a record, is a file beside the database, from which [Store.Repair]
//     makes that again.
//
// Its law: a record never names bytes that are not there. Bytes are written to a
// stage, made durable, and moved into place inside the transaction that records
// them; they are moved out again only after the transaction that forgets them.
// A crash at any point leaves garbage for [Store.Sweep], and nothing else.
//
// Everything that moves in or out of layers/ and containers/ does so under
// store.lock, held by [Store.Update] and [Store.Sweep], so nobody can sweep away
// what another has just found. A container alone may also be removed by moving
// its directory away ([Store.RemoveContainer]): its record is then void, is shown
// to nobody, and is dropped by the next update.
//
// badger locks its directory against everybody, fails at once, and runs best in
// one process. Many short varve processes share it by opening it for one
// transaction each, under store.lock, and closing it at once.
package layerdb
