"""What is wrong with the images."""
