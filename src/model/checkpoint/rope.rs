//! The rotary embedding as a configuration describes it: in today's `rope_parameters`, or in the older keys.

use super::Config;
use crate::model::Error;
use std::f32::consts::PI;

/// The parameters of the layers with full attention, and the base of those with a window.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// `default`, `linear`, `llama3`, `yarn` ...
    pub kind: String,
    /// All parameters of the scaling.
    pub scaling: Config,
    /// The base of the angles; `None` where the converter writes none.
    pub theta: Option<f32>,
    /// The base in layers with a window, where it is another.
    pub window_theta: Option<f32>,
    /// The context that the model was trained for before it was stretched.
    pub original_context: Option<u32>,
}

const FULL: &str = "full_attention";
const WINDOW: &str = "sliding_attention";

impl Rotary {
    /// Reads `rope_parameters`, which may be one object or one for each kind of layer, or `rope_scaling`, `rope_theta`
    /// and `rope_local_base_freq`.
    ///
    /// # Errors
    /// When a value has the wrong type, or the kind of scaling is not known.
    pub fn read(config: &Config) -> Result<Rotary, Error> {
        let today = config.object("rope_parameters")?;
        let older = config.object("rope_scaling")?;
        let layers = match &today {
            Some(all) => (all.object(FULL)?, all.object(WINDOW)?),
            None => (None, None),
        };
        let flat = layers.0.is_none() && layers.1.is_none();
        let scaling = layers
            .0
            .or(older)
            .or(today.filter(|_| flat))
            .unwrap_or_else(|| Config::new(config.file(), serde_json::Map::new()));
        let window = match layers.1 {
            Some(window) => window.f32(&["rope_theta"])?,
            None => None,
        };
        let kind = match scaling.str("rope_type")? {
            Some(kind) => Some(kind),
            None => scaling.str("type")?,
        };
        let kind = kind.unwrap_or("default").to_owned();
        let known = ["default", "linear", "dynamic", "yarn", "llama3", "longrope", "su"];
        if !known.contains(&kind.as_str()) {
            return Err(scaling.bad("rope_type", &kind, known.join(", ")));
        }
        let or = |own: Option<f32>, key| if own.is_some() { Ok(own) } else { config.f32(&[key]) };
        let original_context = match config.u32(&["original_max_position_embeddings"])? {
            Some(n) => Some(n),
            None => match scaling.u32(&["original_max_position_embeddings"])? {
                Some(n) => Some(n),
                None => config.u32(&["max_position_embeddings"])?,
            },
        };
        Ok(Rotary {
            kind,
            theta: or(scaling.f32(&["rope_theta"])?, "rope_theta")?,
            window_theta: or(window, "rope_local_base_freq")?,
            original_context,
            scaling,
        })
    }

    /// What the angles of Llama 3.1 are divided by, `[dim / 2]`; `None` for other kinds. In f32 and in the order of
    /// operations of PyTorch, where a number divided by a tensor is the tensor's reciprocal times the number.
    ///
    /// # Errors
    /// When a parameter has the wrong type or cannot be computed with.
    pub fn factors(&self, dim: u32) -> Result<Option<Vec<f32>>, Error> {
        if self.kind != "llama3" {
            return Ok(None);
        }
        let s = &self.scaling;
        let factor = s.f32(&["factor"])?.unwrap_or(8.0);
        let low = s.f32(&["low_freq_factor"])?.unwrap_or(1.0);
        let high = s.f32(&["high_freq_factor"])?.unwrap_or(4.0);
        let context = self.original_context.unwrap_or(8192) as f32;
        let base = self.theta.unwrap_or(10000.0);
        for (key, value, least) in
            [("factor", factor, 0.0), ("low_freq_factor", low, 0.0), ("high_freq_factor", high, low)]
        {
            if value <= least {
                return Err(s.bad(key, value, format!("a number above {least}")));
            }
        }
        let slow = (f64::from(context) / f64::from(low)) as f32;
        let fast = (f64::from(context) / f64::from(high)) as f32;
        let one = |i: u32| {
            let frequency = 1.0 / base.powf(i as f32 / dim as f32);
            let length = (1.0 / frequency) * (2.0 * PI);
            if length < fast {
                1.0
            } else if length > slow {
                factor
            } else {
                let smooth = ((1.0 / length) * context - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        Ok(Some((0..dim).step_by(2).map(one).collect()))
    }
}
