//! The block that the kernel puts on a new image's stack: arguments, environment, auxiliary vector.
//!
//! The shim keeps the block and its strings, drops its own arguments, and changes the entries that
//! describe the program.

use crate::arch::start::plain_time_calls;
use crate::load::Program;
use crate::{host, report};
use dunix_guest_abi::layout;
use dunix_shim_core::elf::{self, PAGE};
use dunix_shim_core::{nr, vdso};

const AT_NULL: u64 = 0;
const AT_PHDR: u64 = 3;
const AT_PHENT: u64 = 4;
const AT_PHNUM: u64 = 5;
const AT_BASE: u64 = 7;
const AT_ENTRY: u64 = 9;
const AT_SECURE: u64 = 23;
const AT_EXECFN: u64 = 31;
const AT_SYSINFO_EHDR: u64 = 33;
/// More entries than any kernel has.
const AUXILIARY_MAX: usize = 64;

/// The kernel's block, by addresses.
pub(crate) struct InitialStack {
    argv: *mut u64,
    argc: usize,
    envp: *mut u64,
    auxv: *mut u64,
    /// After the auxiliary vector's last entry.
    end: *mut u64,
}

impl InitialStack {
    /// Reads the block at the initial stack pointer.
    ///
    /// # Safety
    /// `at` is what the kernel gave the entry point, unchanged.
    pub(crate) unsafe fn read(at: *mut u64) -> InitialStack {
        // SAFETY: the kernel ends each list with a zero.
        unsafe {
            let argc = host::to_usize(at.read());
            let argv = at.add(1);
            let envp = argv.add(argc + 1);
            let mut auxv = envp;
            while auxv.read() != 0 {
                auxv = auxv.add(1);
            }
            auxv = auxv.add(1);
            let mut end = auxv;
            while end.read() != AT_NULL {
                end = end.add(2);
            }
            InitialStack { argv, argc, envp, auxv, end: end.add(2) }
        }
    }

    /// Address of an argument's text.
    pub(crate) fn argument_address(&self, index: usize) -> Option<u64> {
        // SAFETY: below argc.
        (index < self.argc).then(|| unsafe { self.argv.add(index).read() })
    }

    /// An argument's text.
    pub(crate) fn argument(&self, index: usize) -> Option<&[u8]> {
        self.argument_address(index).map(string_at)
    }

    /// Address of the arguments from `index` on, as execve takes them.
    pub(crate) fn argument_list(&self, index: usize) -> u64 {
        self.argv.wrapping_add(index) as u64
    }

    /// Address of the environment.
    pub(crate) fn environment_list(&self) -> u64 {
        self.envp as u64
    }

    /// Whether the environment has a variable; `start` ends with `=`.
    pub(crate) fn has_variable(&self, start: &[u8]) -> bool {
        let mut at = self.envp;
        // SAFETY: the list ends with a zero.
        unsafe {
            while at.read() != 0 {
                if string_at(at.read()).starts_with(start) {
                    return true;
                }
                at = at.add(1);
            }
        }
        false
    }

    /// Takes the first `count` arguments away.
    pub(crate) fn drop_arguments(&mut self, count: usize) {
        let count = count.min(self.argc);
        // SAFETY: within the list.
        self.argv = unsafe { self.argv.add(count) };
        self.argc -= count;
    }

    fn auxiliary(&self, kind: u64) -> Option<*mut u64> {
        let mut at = self.auxv;
        // SAFETY: entries up to `end`.
        unsafe {
            while at < self.end {
                if at.read() == kind {
                    return Some(at.add(1));
                }
                at = at.add(2);
            }
        }
        None
    }

    /// Whether the program has more rights than who executed it (`AT_SECURE`).
    pub(crate) fn is_secure(&self) -> bool {
        // SAFETY: the entry's value.
        self.auxiliary(AT_SECURE).is_some_and(|at| unsafe { at.read() != 0 })
    }

    fn set_auxiliary(&self, kind: u64, value: u64) {
        if let Some(at) = self.auxiliary(kind) {
            // SAFETY: the entry's value.
            unsafe { at.write(value) };
        }
    }

    /// Describes the program, moves the block to make room for `exec_fn`'s text, tells the kernel
    /// where everything is, and returns the guest's stack pointer.
    pub(crate) fn finish(&mut self, program: &Program, exec_fn: &[u8]) -> u64 {
        self.set_auxiliary(AT_PHDR, program.headers);
        self.set_auxiliary(AT_PHENT, elf::PROGRAM_HEADER_BYTES as u64);
        self.set_auxiliary(AT_PHNUM, program.headers_count as u64);
        self.set_auxiliary(AT_BASE, program.interpreter_base);
        self.set_auxiliary(AT_ENTRY, program.entry);
        if let Some(at) = self.auxiliary(AT_SYSINFO_EHDR) {
            // SAFETY: the entry's value; the kernel mapped its image there.
            unsafe { at.write(map_vdso(at.read())) };
        }
        let text = (self.end as u64 - exec_fn.len() as u64 - 1) & !15;
        self.set_auxiliary(AT_EXECFN, text);
        let words = (self.end as usize - self.argv as usize) / 8;
        let stack_pointer = (text - 8 * (words as u64 + 1)) & !15;
        // SAFETY: the shim runs on another stack, so everything below the block is free (the
        // kernel extends the stack when touched); the copy allows overlap.
        unsafe {
            let argv = (stack_pointer as *mut u64).add(1);
            core::ptr::copy(self.argv, argv, words);
            (stack_pointer as *mut u64).write(self.argc as u64);
            (text as *mut u8).copy_from_nonoverlapping(exec_fn.as_ptr(), exec_fn.len());
            (text as *mut u8).add(exec_fn.len()).write(0);
            *self = InitialStack::read(stack_pointer as *mut u64);
        }
        self.describe_to_kernel(program, stack_pointer);
        make_executable(program, stack_pointer);
        stack_pointer
    }

    /// `PR_SET_MM_MAP`: heap, and what `/proc/self/cmdline`, `environ` and `auxv` show.
    fn describe_to_kernel(&self, program: &Program, stack_pointer: u64) {
        const PR_SET_MM: u64 = 35;
        const PR_SET_MM_MAP: u64 = 14;
        let (arg_start, arg_end) = self.text_range(self.argv, self.argc);
        // SAFETY: the environment's list lies between `envp` and its zero before `auxv`.
        let variables = unsafe { self.auxv.offset_from(self.envp) } as usize - 1;
        let (env_start, env_end) = self.text_range(self.envp, variables);
        let auxv_bytes = (self.end as u64 - self.auxv as u64).min(AUXILIARY_MAX as u64 * 8);
        let map: [u64; 13] = [
            program.code.0,
            program.code.1,
            program.data.0,
            program.data.1,
            program.heap,
            program.heap,
            stack_pointer,
            arg_start,
            arg_end,
            if variables == 0 { arg_end } else { env_start },
            if variables == 0 { arg_end } else { env_end },
            self.auxv as u64,
            auxv_bytes | u64::from(u32::MAX) << 32,
        ];
        let args = [PR_SET_MM, PR_SET_MM_MAP, map.as_ptr() as u64, size_of_val(&map) as u64, 0, 0];
        // SAFETY: changes what the kernel believes of the heap, before there is one. If the kernel
        // refuses (built without it), the heap lies after the shim's own data, which works as well.
        let _ = unsafe { host::call(nr::PRCTL, args) };
    }

    fn text_range(&self, list: *mut u64, count: usize) -> (u64, u64) {
        if count == 0 {
            return (self.end as u64, self.end as u64);
        }
        // SAFETY: the first and last entry of a list of `count`.
        let (first, last) = unsafe { (list.read(), list.add(count - 1).read()) };
        (first, last + string_at(last).len() as u64 + 1)
    }
}

fn string_at<'a>(address: u64) -> &'a [u8] {
    // SAFETY: texts of the initial block end with a zero and stay where they are.
    unsafe { core::ffi::CStr::from_ptr(address as *const core::ffi::c_char) }.to_bytes()
}

/// Builds the fabric's vDSO over the host's at `host_image`; returns its address.
fn map_vdso(host_image: u64) -> u64 {
    let flags = host::MAP_PRIVATE | host::MAP_ANONYMOUS | host::MAP_FIXED;
    let writable = host::PROT_READ | host::PROT_WRITE;
    let bytes = vdso::IMAGE_BYTES as u64;
    // SAFETY: the place is reserved for this page, and free in a new image.
    if unsafe { host::mmap(layout::VDSO_START, bytes, writable, flags, -1, 0) }.is_err() {
        report::fatal("cannot map the vDSO", "", 0);
    }
    // SAFETY: just mapped, nobody else knows it.
    let page = unsafe { &mut *(layout::VDSO_START as *mut [u8; vdso::IMAGE_BYTES]) };
    let targets = vdso_targets(host_image);
    host::set_clock(targets[0]);
    vdso::Image::build(page, targets);
    // SAFETY: the page that was just built.
    let _ = unsafe { host::mprotect(layout::VDSO_START, bytes, host::PROT_READ | host::PROT_EXEC) };
    layout::VDSO_START
}

fn vdso_targets(host_image: u64) -> [u64; vdso::FUNCTIONS.len()] {
    let mut targets = plain_time_calls();
    // SAFETY: the kernel maps at least one page there, headers first.
    let head =
        unsafe { core::slice::from_raw_parts(host_image as *const u8, host::to_usize(PAGE)) };
    let Some(load) = elf::segment(&head[elf::HEADER_BYTES..]).filter(|s| s.kind == elf::PT_LOAD)
    else {
        return targets;
    };
    // SAFETY: the image's only loaded segment says how long it is.
    let image = unsafe {
        core::slice::from_raw_parts(host_image as *const u8, host::to_usize(load.bytes_memory))
    };
    for (target, name) in targets.iter_mut().zip(vdso::FUNCTIONS) {
        if let Some(offset) = vdso::find(image, name) {
            *target = host_image + offset;
        }
    }
    targets
}

/// Old programs ask for an executable stack.
fn make_executable(program: &Program, stack_pointer: u64) {
    if program.wants_executable_stack {
        let prot = host::PROT_READ | host::PROT_WRITE | host::PROT_EXEC | host::PROT_GROWSDOWN;
        // SAFETY: the guest's stack.
        let _ = unsafe { host::mprotect(stack_pointer & !(PAGE - 1), PAGE, prot) };
    }
}

/// Names the process as execve would: the last part of the path.
pub(crate) fn name_process(path: &[u8]) {
    const PR_SET_NAME: u64 = 15;
    let start = path.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
    let mut name = [0u8; 16];
    let len = (path.len() - start).min(15);
    name[..len].copy_from_slice(&path[start..start + len]);
    // SAFETY: reads the terminated name.
    let _ = unsafe { host::call(nr::PRCTL, [PR_SET_NAME, name.as_ptr() as u64, 0, 0, 0, 0]) };
}
