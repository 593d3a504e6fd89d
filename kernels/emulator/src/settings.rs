//! What the emulated card is like, from the environment: `OSTRO_EMULATOR_` and a name.

/// The card, and what is checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of memory that a program can have.
    pub memory: u64,
    /// Compute capability, as 89 for 8.9.
    pub capability: u32,
    /// Version of CUDA that the driver has, as 12000.
    pub driver: u32,
    /// Cards.
    pub devices: u32,
    /// Reads of memory that nobody wrote are errors.
    pub check_init: bool,
    /// Accesses that no barrier orders are errors.
    pub check_race: bool,
    /// Where statistics are written, as JSON.
    pub stats: Option<String>,
    /// Threads that run blocks, where races are not checked.
    pub threads: usize,
    /// After so many kernels the driver is lost.
    pub lose_after: Option<u64>,
    /// A kernel that is passed over, as if it did nothing: what a wrong result looks like.
    pub skip: Option<String>,
    /// Milliseconds that a module takes to be compiled.
    pub compile_ms: u64,
}

impl Default for Settings {
    /// A card of 24 GB.
    fn default() -> Settings {
        Settings {
            memory: (24_336 - 450) << 20,
            capability: 89,
            driver: 12_040,
            devices: 1,
            check_init: false,
            check_race: false,
            stats: None,
            threads: 1,
            lose_after: None,
            skip: None,
            compile_ms: 0,
        }
    }
}

impl Settings {
    /// `MEMORY` in MiB, `CAPABILITY` as 8.9, `DRIVER` as 12000, `DEVICES`, `CHECK` of init and race, `STATS` a path,
    /// `THREADS`, `LOSE_AFTER` a number of kernels, `SKIP` the name of a kernel, `COMPILE_MS`.
    ///
    /// # Errors
    /// A value that is none.
    pub fn from_environment() -> Result<Settings, String> {
        let mut s = Settings::default();
        let text = |name: &str| std::env::var(format!("OSTRO_EMULATOR_{name}")).ok().filter(|v| !v.is_empty());
        let number = |name: &str| -> Result<Option<u64>, String> {
            let Some(text) = text(name) else { return Ok(None) };
            text.parse().map(Some).map_err(|_| format!("OSTRO_EMULATOR_{name}: found {text:?}, expected a number"))
        };
        s.memory = number("MEMORY")?.map_or(s.memory, |mib| mib << 20);
        s.driver = number("DRIVER")?.map_or(s.driver, |n| n as u32);
        s.devices = number("DEVICES")?.map_or(s.devices, |n| n as u32);
        s.threads = number("THREADS")?.map_or(s.threads, |n| (n as usize).max(1));
        s.lose_after = number("LOSE_AFTER")?;
        s.skip = text("SKIP");
        s.compile_ms = number("COMPILE_MS")?.unwrap_or(0);
        s.stats = text("STATS");
        if let Some(capability) = text("CAPABILITY") {
            let digits: String = capability.chars().filter(|c| *c != '.').collect();
            let wrong = |_| format!("OSTRO_EMULATOR_CAPABILITY: found {capability:?}, expected one as 8.9");
            s.capability = digits.parse().map_err(wrong)?;
        }
        for check in text("CHECK").iter().flat_map(|c| c.split(',')) {
            match check {
                "init" => s.check_init = true,
                "race" => s.check_race = true,
                _ => return Err(format!("OSTRO_EMULATOR_CHECK: found {check:?}, expected init or race")),
            }
        }
        Ok(s)
    }
}
