// Package registry speaks with registries of images: it finds what a name means
// there, reads manifests and blobs, and brings them there.
//
// The nouns are those of the OCI distribution specification: a repository, of
// which a [Repository] is an authenticated connection; tags and digests in it; a
// [Manifest], which lists by digest a configuration and layers; blobs, which those
// are. An index lists manifests, one a platform.
//
// Its law: what comes from a registry is believed as far as a digest vouches for
// it and no further. A manifest is checked against the digest that it was asked
// by, a configuration against that in the manifest, and both are bounded. A layer
// is handed on with exactly the bytes that the manifest promises in number; who
// unpacks it checks the digest as they pass by.
//
// Credentials are those of docker (config.json and its helpers, as package authn
// of go-containerregistry finds them). They go to the registry and to the token
// service that it names, never to a host that a request was redirected to. Plain
// HTTP is for loopback, and for those who ask for it ([Options.Insecure]).
//
// It knows nothing of the store: package engine brings the two together.
package registry
