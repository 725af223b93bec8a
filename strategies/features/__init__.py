"""Feature distances: how a student's hidden state is compared with the teacher's. One file each."""
