//! The shared library says which of its versions fit a program: before 1.0.0 those of one minor
//! version.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libvmalloc.so.0.1");
}
