//! Memory that is free goes back to the kernel.

/// Gives back what was needed at the peak of some work: the C library keeps it, in the middle of what is in use too
/// (`malloc_trim(3)`). Takes milliseconds.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "a function of the C library that takes a number and no pointer")]
pub(crate) fn give_back() {
    // SAFETY: may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other C libraries give back on their own.
#[cfg(not(target_env = "gnu"))]
pub(crate) const fn give_back() {}
