//! The driver's C interface: the functions that programs call, by the names of `cuda.h`.
//!
//! Whatever is not here is missing at load, and the program says so: nothing pretends to be done.

#![allow(non_snake_case, clippy::missing_safety_doc, reason = "names and contracts are CUDA's own")]

use crate::driver::{Answer, Driver, Source, Work, code};
use crate::settings::Settings;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::{Mutex, OnceLock};

static DRIVER: OnceLock<Mutex<Driver>> = OnceLock::new();

/// A handle of the one context.
const CONTEXT: usize = 0x100;

fn driver() -> &'static Mutex<Driver> {
    DRIVER.get_or_init(|| {
        let settings = Settings::from_environment().unwrap_or_else(|e| {
            eprintln!("emulator: {e}");
            std::process::exit(2);
        });
        // SAFETY: a function without arguments, at the end of the process.
        unsafe { atexit(at_exit) };
        Mutex::new(Driver::new(settings))
    })
}

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
}

extern "C" fn at_exit() {
    if let Some(Ok(driver)) = DRIVER.get().map(Mutex::lock) {
        driver.write_stats();
    }
}

fn answer(result: Answer<()>) -> u32 {
    result.err().unwrap_or(code::SUCCESS)
}

/// Does something with the driver, unless an error stays.
fn with(work: impl FnOnce(&mut Driver) -> Answer<()>) -> u32 {
    let Ok(mut driver) = driver().lock() else { return code::UNKNOWN };
    answer(driver.check().and_then(|()| work(&mut driver)))
}

/// Writes a result where the caller wants it.
///
/// # Safety
/// `to` is null or has room for a value.
unsafe fn give<T>(to: *mut T, value: T) -> Answer<()> {
    if to.is_null() {
        return Err(code::INVALID_VALUE);
    }
    // SAFETY: promised by the caller.
    unsafe { to.write(value) };
    Ok(())
}

/// Declares functions of the C interface, whose bodies are safe but for the pointers that callers pass.
macro_rules! api {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $body:block)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> u32 {
            // SAFETY: pointers are the caller's, as `cuda.h` demands them.
            #[allow(unused_unsafe, reason = "not every function writes through a pointer")]
            unsafe { $body }
        }
    )*};
}

api! {
    /// Starts the driver.
    fn cuInit(_flags: c_uint) {
        let Ok(driver) = driver().lock() else { return code::UNKNOWN };
        if driver.settings.devices == 0 { code::NO_DEVICE } else { code::SUCCESS }
    }
    /// The version of CUDA.
    fn cuDriverGetVersion(version: *mut c_int) {
        let Ok(driver) = driver().lock() else { return code::UNKNOWN };
        answer(give(version, driver.settings.driver as c_int))
    }
    /// How many cards there are.
    fn cuDeviceGetCount(count: *mut c_int) { with(|d| give(count, d.settings.devices as c_int)) }
    /// A card by its number.
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        with(|d| if (ordinal as u32) < d.settings.devices { give(device, ordinal) } else { Err(code::INVALID_DEVICE) })
    }
    /// Its name.
    fn cuDeviceGetName(name: *mut c_char, len: c_int, _device: c_int) {
        with(|_| {
            let text = b"Emulated card\0";
            if name.is_null() || (len as usize) < text.len() {
                return Err(code::INVALID_VALUE);
            }
            std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, text.len());
            Ok(())
        })
    }
    /// What is asked about it: the compute capability.
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) {
        with(|d| match attribute {
            75 => give(value, (d.settings.capability / 10) as c_int),
            76 => give(value, (d.settings.capability % 10) as c_int),
            _ => Err(code::INVALID_VALUE),
        })
    }
    /// Its context.
    fn cuDevicePrimaryCtxRetain(context: *mut usize, _device: c_int) { with(|_| give(context, CONTEXT)) }
    /// Gives it back.
    fn cuDevicePrimaryCtxRelease_v2(_device: c_int) { code::SUCCESS }
    /// Makes it the thread's.
    fn cuCtxSetCurrent(context: usize) {
        if context == CONTEXT || context == 0 { code::SUCCESS } else { code::INVALID_CONTEXT }
    }
    /// Waits for everything.
    fn cuCtxSynchronize() { with(Driver::synchronize_all) }
    /// Free bytes and all.
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        with(|d| {
            let (left, all) = d.memory_info();
            give(free, left as usize)?;
            give(total, all as usize)
        })
    }
    /// Memory of the card.
    fn cuMemAlloc_v2(at: *mut u64, bytes: usize) {
        with(|d| {
            let place = d.allocate(bytes)?;
            give(at, place)
        })
    }
    /// Gives it back.
    fn cuMemFree_v2(at: u64) { with(|d| d.free(at)) }
    /// Pinned memory of the host.
    fn cuMemHostAlloc(at: *mut *mut c_void, bytes: usize, _flags: c_uint) {
        with(|d| {
            let memory = vec![0u8; bytes.max(1)].leak();
            d.pin(memory.as_ptr() as usize, bytes);
            give(at, memory.as_mut_ptr().cast())
        })
    }
    /// Gives it back, once what is queued is done.
    fn cuMemFreeHost(at: *mut c_void) {
        let Ok(mut driver) = driver().lock() else { return code::UNKNOWN };
        let _ = driver.synchronize_all();
        match driver.unpin(at as usize) {
            Some(len) => {
                drop(Vec::from_raw_parts(at.cast::<u8>(), len.max(1), len.max(1)));
                code::SUCCESS
            }
            None => code::INVALID_VALUE,
        }
    }
    /// Sets bytes of the card: queued on the stream that belongs to nobody.
    fn cuMemsetD8_v2(at: u64, value: u8, bytes: usize) { with(|d| d.queue(0, Work::Fill(at, value, bytes))) }
    /// Sets bytes in a stream.
    fn cuMemsetD8Async(at: u64, value: u8, bytes: usize, stream: u64) { with(|d| d.queue(stream, Work::Fill(at, value, bytes))) }
    /// From the host to the card.
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: u64) {
        with(|d| {
            let source = match d.is_pinned(from as usize, bytes) {
                true => Source::Pinned(from as usize, bytes),
                // Memory that is not pinned is copied before the call returns.
                false => Source::Copied(std::slice::from_raw_parts(from.cast::<u8>(), bytes).to_vec()),
            };
            d.queue(stream, Work::ToCard(source, to))
        })
    }
    /// From the card to the host.
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: u64) {
        with(|d| {
            d.queue(stream, Work::ToHost(from, to as usize, bytes))?;
            // Memory that is not pinned is written before the call returns.
            if d.is_pinned(to as usize, bytes) { Ok(()) } else { d.synchronize(stream) }
        })
    }
    /// Within the card.
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) {
        with(|d| d.queue(stream, Work::Within(from, to, bytes)))
    }
    /// Compiles PTX.
    fn cuModuleLoadData(module: *mut u64, image: *const c_void) {
        with(|d| {
            let text = CStr::from_ptr(image.cast()).to_str().map_err(|_| code::INVALID_PTX)?;
            let handle = d.load(text)?;
            give(module, handle)
        })
    }
    /// Forgets a module: its kernels stay, since what is queued may need them.
    fn cuModuleUnload(_module: u64) { code::SUCCESS }
    /// A kernel by its name.
    fn cuModuleGetFunction(function: *mut u64, module: u64, name: *const c_char) {
        with(|d| {
            let name = CStr::from_ptr(name).to_str().map_err(|_| code::NOT_FOUND)?;
            let handle = d.function(module, name)?;
            give(function, handle)
        })
    }
    /// Queues a kernel.
    fn cuLaunchKernel(
        function: u64, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared: c_uint, stream: u64, parameters: *mut *mut c_void, _extra: *mut *mut c_void
    ) {
        with(|d| {
            if block_y != 1 || block_z != 1 {
                return Err(code::INVALID_VALUE);
            }
            let (places, size) = d.parameters(function)?;
            let mut bytes = vec![0u8; size];
            for (i, (len, at)) in places.into_iter().enumerate() {
                let from = (*parameters.add(i)).cast::<u8>();
                bytes[at..at + len].copy_from_slice(std::slice::from_raw_parts(from, len));
            }
            d.launch(function, [grid_x, grid_y, grid_z], block_x, shared as usize, stream, bytes)
        })
    }
    /// Makes a stream.
    fn cuStreamCreate(stream: *mut u64, _flags: c_uint) {
        with(|d| {
            let handle = d.stream();
            give(stream, handle)
        })
    }
    /// Ends it.
    fn cuStreamDestroy_v2(stream: u64) { with(|d| d.end_stream(stream)) }
    /// Waits for it.
    fn cuStreamSynchronize(stream: u64) { with(|d| d.synchronize(stream)) }
    /// Makes it wait for an event.
    fn cuStreamWaitEvent(stream: u64, event: u64, _flags: c_uint) { with(|d| d.wait(stream, event)) }
    /// Makes an event.
    fn cuEventCreate(event: *mut u64, _flags: c_uint) {
        with(|d| {
            let handle = d.event();
            give(event, handle)
        })
    }
    /// Ends it.
    fn cuEventDestroy_v2(event: u64) { with(|d| d.end_event(event)) }
    /// Marks a stream.
    fn cuEventRecord(event: u64, stream: u64) { with(|d| d.record(event, stream)) }
    /// Waits for the mark.
    fn cuEventSynchronize(event: u64) { with(|d| d.synchronize_event(event)) }
    /// Milliseconds between two marks.
    fn cuEventElapsedTime(milliseconds: *mut f32, start: u64, end: u64) {
        with(|d| {
            let time = d.elapsed(start, end)?;
            give(milliseconds, time)
        })
    }
    /// The same, by the name of newer interfaces.
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: u64, end: u64) { cuEventElapsedTime(milliseconds, start, end) }
    /// The name of an answer.
    fn cuGetErrorName(error: u32, text: *mut *const c_char) { answer(give(text, name(error).as_ptr())) }
    /// The same: the names say enough.
    fn cuGetErrorString(error: u32, text: *mut *const c_char) { answer(give(text, name(error).as_ptr())) }
}

fn name(error: u32) -> &'static CStr {
    match error {
        code::SUCCESS => c"CUDA_SUCCESS",
        code::INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        code::OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        code::NO_DEVICE => c"CUDA_ERROR_NO_DEVICE",
        code::INVALID_DEVICE => c"CUDA_ERROR_INVALID_DEVICE",
        code::INVALID_CONTEXT => c"CUDA_ERROR_INVALID_CONTEXT",
        code::NO_BINARY_FOR_GPU => c"CUDA_ERROR_NO_BINARY_FOR_GPU",
        code::INVALID_PTX => c"CUDA_ERROR_INVALID_PTX",
        code::UNSUPPORTED_PTX_VERSION => c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        code::INVALID_HANDLE => c"CUDA_ERROR_INVALID_HANDLE",
        code::NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
        crate::exec::ILLEGAL_ADDRESS => c"CUDA_ERROR_ILLEGAL_ADDRESS",
        code::LAUNCH_OUT_OF_RESOURCES => c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
        crate::exec::MISALIGNED => c"CUDA_ERROR_MISALIGNED_ADDRESS",
        crate::exec::LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED",
        _ => c"CUDA_ERROR_UNKNOWN",
    }
}
