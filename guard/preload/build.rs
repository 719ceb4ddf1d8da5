//! Calls inside the library stay inside: a program may have a `free` or a `sigaction` of its own, which calls
//! the library's.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    println!("cargo::rerun-if-changed=build.rs");
}
