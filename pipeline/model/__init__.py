"""Networks: feature maps and a head, with published weights where there are some."""
