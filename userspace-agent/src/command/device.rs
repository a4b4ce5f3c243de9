// SPDX-License-Identifier: GPL-2.0

//! The argument that names one device.

use clap::Args;

/// What names one device.
#[derive(Args, Debug, Default)]
pub(crate) struct DeviceArgs {
    /// Only this device: its name (virtio0) or its PCI address (0000:00:04.0)
    #[arg(value_name = "DEVICE", conflicts_with = "device")]
    position: Option<String>,

    /// Only this device, like DEVICE
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

impl DeviceArgs {
    /// That device, or none.
    pub(crate) fn of(device: Option<String>) -> Self {
        Self {
            position: None,
            device,
        }
    }

    /// The device called so on the command line.
    pub(crate) fn name(&self) -> Option<&str> {
        self.position.as_deref().or(self.device.as_deref())
    }
}
