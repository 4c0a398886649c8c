// Package rootfs makes the trees that an image consists of.
//
//	sources of apt ──> Layer ──Builder──> tar file in the store ─┐
//	                                                             ├─Composer──> HostTree
//	overlays, programs, actions runner's tarball, guest's layer ─┘
//
// A Layer is a set of Debian packages, made once by mmdebstrap(1) and kept in
// the store under the digest of its inputs. A Composer unpacks a layer, copies
// the overlays over it and removes the files that belong to one host. Tools is a
// tree of a third layer: the programs that shape the bytes of an image. They run
// in a Sandbox, so that the same inputs make the same bytes on every build host.
//
// All of it works as root or as root of a user namespace, which
// EnterUserNamespace makes.
package rootfs
