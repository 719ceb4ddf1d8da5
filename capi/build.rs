//! The shared library has a name that says which of its versions fit a program: before 1.0.0 those of
//! one minor version. `xtask/src/install.rs` installs it by that name.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let (major, minor) = (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"));
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libvmalloc.so.{major}.{minor}");
}
