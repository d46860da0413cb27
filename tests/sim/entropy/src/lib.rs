//! Takes the operating system's randomness away from the program that links this.
//!
//! tokio seeds the order in which it wakes receivers, and the standard library its hash maps, from
//! `getrandom`. A program that calls [`remove`] is linked with the `getrandom` below, which answers
//! the same bytes to every call. For the simulation only: nothing else may link this crate.

use std::ffi::{c_uint, c_void};
use std::hint::black_box;

/// Makes the linker use the `getrandom` of this crate instead of the C library's, and returns
/// whether that worked: whether two fresh hash maps of two threads hash alike.
#[must_use]
pub fn remove() -> bool {
    black_box(getrandom as unsafe extern "C" fn(*mut c_void, usize, c_uint) -> isize);
    let hash = || {
        use std::hash::{BuildHasher as _, RandomState};
        std::thread::spawn(|| RandomState::new().hash_one(1)).join().ok()
    };
    hash() == hash()
}

/// The same bytes at every call.
///
/// # Safety
/// As for `getrandom(2)`: `buffer` must be writable for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, _: c_uint) -> isize {
    for at in 0..length {
        // SAFETY: the caller promises that these bytes are writable.
        unsafe { buffer.cast::<u8>().add(at).write((at * 151 + 43) as u8) };
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
