{%- set gateway = salt['gateway.settings']() %}

kernel-packages:
  pkg.installed:
    - pkgs: {{ gateway.packages.kernel | tojson }}
    - install_recommends: False

# No later state can add what the running kernel lacks. So this comes first and names each missing option.
kernel-options:
  kernel_options.present:
    - features: {{ gateway.features | tojson }}

# Otherwise loading the module makes a bond0 of its own, which would conflict with ours
# (kernel: Documentation/networking/bonding.rst, max_bonds).
/etc/modprobe.d/gateway.conf:
  file.managed:
    - contents: options bonding max_bonds=0

/etc/modules-load.d/gateway.conf:
  file.managed:
    - contents: {{ gateway.kernel.modules | tojson }}

kernel-modules:
  kmod.present:
    - mods: {{ salt['kernel_options.loadable'](gateway.kernel.modules) | tojson }}
    - require:
      - pkg: kernel-packages
      - kernel_options: kernel-options
      - file: /etc/modprobe.d/gateway.conf

{%- for name, value in gateway.kernel.sysctl.items() %}

{{ name }}:
  sysctl.present:
    - value: {{ value | tojson }}
    - config: /etc/sysctl.d/60-gateway.conf
{%- endfor %}

# The paper's `klogd -c 4`: warnings and less severe messages stay off the console.
kernel.printk:
  sysctl.present:
    - value: {{ gateway.kernel.printk | tojson }}
    - config: /etc/sysctl.d/60-gateway.conf

{%- if 'kernel.core_pattern' not in gateway.kernel.sysctl %}

# No program of this machine leaves a core, with the keys that were in its memory (core(5)): it goes to a program that
# throws it away. At once, without a restart of anything, and whatever limit a daemon gives itself (heartbeat does).
kernel.core_pattern:
  sysctl.present:
    - value: '|/bin/false'
    - config: /etc/sysctl.d/60-gateway.conf
{%- endif %}

# Record what this formula manages, for the drift beacon.
kernel-recorded:
  drift.recorded:
    - name: kernel
